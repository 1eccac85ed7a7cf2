"""`nvfp4-studio calibrate` against real servers: the same file from any split, also when one of them is killed."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.cli.main import main
from nvfp4_studio.tests.server.commands import Command, finished

SAMPLES = 8
VARIED = ("--sizes", "64x64,96x64", "--steps", "3,5", "--guidance", "1,2", "--influence")
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "aio.safetensors"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["1", 1]}},
    "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            "model": ["1", 0], "positive": ["3", 0], "negative": ["8", 0], "latent_image": ["4", 0],
        },
    },
    "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "calibrated"}},
    "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
}  # fmt: skip


class Calibrate(Command):
    """`calibrate` into farm.safetensors."""

    @property
    def out(self) -> Path:
        return self.folder / "farm.safetensors"

    @property
    def written(self) -> list[bytes]:
        """The statistics, and the influence beside them."""
        return [path.read_bytes() for path in (self.out, self.out.with_name("farm.influence.json"))]

    @property
    def work(self) -> Path:
        return self.folder / "farm.safetensors.work"

    def done(self) -> int:
        path = self.work / "journal.json"
        return len(json.loads(path.read_text("utf-8"))["done"]) if path.exists() else 0


def left_on(server: Any) -> list[str]:
    """Calibrations and prompts that a run left on a server."""
    queue = server.request("/queue")[1]
    return calibrations_on(server) + queue["queue_running"] + queue["queue_pending"]


def calibrations_on(server: Any) -> list[str]:
    return [entry["name"] for entry in server.request("/nvfp4_studio/calibrations")[1]["calibrations"]]


@pytest.fixture(scope="module")
def farm(classic_server: Any, shared_server: Any, start_server: Any) -> Iterator[list[Any]]:
    """Two servers that live, with no calibration of earlier tests, and a third that one test kills."""
    living = [classic_server, shared_server("--cache-none")]
    for server in living:
        for name in calibrations_on(server):
            server.request("/nvfp4_studio/calibrations/delete", {"name": name})
    third = start_server("--cache-lru", "100")
    yield [*living, third]
    third.stop()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Calibrate]:
    """A command for these servers; `workflow` and further words as needed."""

    def make(servers: list[Any], *words: str, workflow: dict[str, Any] = WORKFLOW, varied: bool = True) -> Calibrate:
        folder = tmp_path_factory.mktemp("calibrate")
        (folder / "api.json").write_text(json.dumps(workflow), "utf-8")
        addresses = [word for server in servers for word in ("--server", server.url)]
        fixed = ["calibrate", "--workflow", "api.json", "--name", "farm", "--samples", str(SAMPLES), "--seed", "7"]
        return Calibrate(folder, [*fixed, *addresses, *(VARIED if varied else ()), *words])

    return make


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that cannot be, in this process; what it said about that."""

    def run(command: Calibrate) -> str:
        monkeypatch.chdir(command.folder)
        status = main([*command.words, "--json"])
        out, err = capsys.readouterr()
        assert status in (1, 2) and out == ""
        return err

    return run


@pytest.fixture(scope="module")
def alone(farm: list[Any], command: Callable[..., Calibrate]) -> tuple[list[bytes], dict[str, Any]]:
    """All generations on one server: the files that every split has to give."""
    made = command(farm[:1])
    told = made.run()
    return made.written, told


def test_one_server_counts_every_generation(alone: tuple[list[bytes], dict[str, Any]], farm: list[Any]) -> None:
    _, told = alone
    assert told["counted"] == SAMPLES and told["missing"] == {} and told["inserted"]
    assert told["models"] == ["CheckpointLoaderSimple (node 1)"]
    assert told["summaries"][0].startswith(f"{SAMPLES} images, ")
    counts = [count for _, count in json.loads(alone[0][1])["layers"].values()]
    assert sum(counts) == 32, "one probe a step"
    assert told["influence"] == [f"influence of {len(counts)} of 44 layers, {min(counts)} to {max(counts)} probes each"]
    assert set(told["varied"]) == {"prompt", "seed", "size", "steps", "guidance"} and told["left"] == {}
    jobs = told["design"]["jobs"]
    assert sorted(job["steps"] for job in jobs) == [3] * 4 + [5] * 4
    assert len({job["seed"] for job in jobs}) == len({job["prompt"] for job in jobs}) == SAMPLES
    assert left_on(farm[0]) == []


def test_two_servers_give_the_same_file(
    alone: tuple[list[bytes], dict[str, Any]], farm: list[Any], command: Callable[..., Calibrate]
) -> None:
    made = command(farm[:2])
    told = made.run()
    assert made.written == alone[0]
    assert all(server["generations"] > 0 for server in told["servers"])
    assert sum(server["generations"] for server in told["servers"]) == SAMPLES
    assert told["design"] == alone[1]["design"]
    assert not made.work.exists() and [left_on(server) for server in farm[:2]] == [[], []]


def test_more_detail_gives_the_same_file_too(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    words = ("--samples", "4", "--steps", "2,3", "--detail", "curvature")
    made = [command(servers, *words, varied=False) for servers in (farm[:1], farm[:2])]
    assert [one.run()["counted"] for one in made] == [4, 4]
    assert made[0].out.read_bytes() == made[1].out.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_run_killed_and_stopped_cleans_up_and_goes_on(
    alone: tuple[list[bytes], dict[str, Any]], farm: list[Any], command: Callable[..., Calibrate]
) -> None:
    made = command(farm[:2])
    process = made.start()
    made.wait_for(1, process)
    process.kill()
    process.communicate()
    for number, more in ((signal.SIGINT, 2), (signal.SIGTERM, 1)):
        before = made.done()
        process = made.start()
        made.wait_for(before + more, process)
        process.send_signal(number)
        told = finished(process, 128 + number)
        assert told["stopped"] and before + more <= told["counted"] == made.done() < SAMPLES
        assert "the same command continues" in told["said"]
        assert not made.out.exists() and [left_on(server) for server in farm[:2]] == [[], []]
    again = made.run()
    assert again["counted"] == SAMPLES
    assert sum(server["generations"] for server in again["servers"]) == SAMPLES - told["counted"]
    assert made.written == alone[0] and not made.work.exists()
    assert [left_on(server) for server in farm[:2]] == [[], []]


def test_another_request_does_not_continue_a_stopped_one(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    made = command(farm[:1])
    process = made.start()
    made.wait_for(1, process)
    process.terminate()
    process.communicate()
    made.words += ["--guidance", "3"]
    process = made.start()
    _, err = process.communicate()
    assert process.returncode == 1 and "holds a stopped run with other guidance" in err and len(err.splitlines()) == 1


def test_a_killed_server_loses_nothing_and_nothing_counts_twice(
    alone: tuple[list[bytes], dict[str, Any]], farm: list[Any], command: Callable[..., Calibrate]
) -> None:
    made = command(farm)
    process = made.start()
    made.wait_for(3, process)
    farm[2].process.kill()
    told = finished(process)
    assert told["counted"] == SAMPLES and told["missing"] == {}
    assert sum(server["generations"] for server in told["servers"]) == SAMPLES
    assert told["servers"][2]["state"] == "no answer" and "does not answer" in told["said"]
    assert made.written == alone[0]


def test_a_server_that_is_not_there_is_done_without(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    made = command(farm[:1], "--server", "http://127.0.0.1:9", "--samples", "2", varied=False)
    told = made.run()
    assert told["counted"] == 2 and "http://127.0.0.1:9 does not answer" in told["said"]


def test_the_workflows_own_node_is_used(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["2"] = {
        "class_type": "NVFP4Calibrate",
        "inputs": {"model": ["1", 0], "name": "mine", "mode": "accumulate"},
    }
    workflow["5"]["inputs"]["model"] = ["2", 0]
    made = command(farm[:1], "--samples", "2", workflow=workflow, varied=False)
    told = made.run()
    assert not told["inserted"] and told["counted"] == 2 and left_on(farm[0]) == []
    assert told["summaries"][0].startswith("2 images, 6 steps")


def test_two_models_give_two_files(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["11"] = copy.deepcopy(workflow["1"])
    workflow["12"] = copy.deepcopy(workflow["5"])
    workflow["12"]["inputs"].update(model=["11", 0], latent_image=["5", 0], steps=2)
    workflow["5"]["inputs"]["steps"] = 2
    workflow["6"]["inputs"]["samples"] = ["12", 0]
    made = command(farm[:1], "--samples", "2", workflow=workflow, varied=False)
    told = made.run()
    assert told["written"] == ["farm-1.safetensors", "farm-2.safetensors"]
    assert told["models"] == ["CheckpointLoaderSimple (node 1)", "CheckpointLoaderSimple (node 11)"]
    assert all(summary.startswith("2 images, 4 steps") for summary in told["summaries"])
    chosen = command(farm[:1], "--samples", "1", "--model-node", "11", workflow=workflow, varied=False).run()
    assert chosen["models"] == ["CheckpointLoaderSimple (node 11)"] and chosen["written"] == ["farm.safetensors"]


def test_a_failing_generation_is_told_with_its_node(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["9"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    workflow["6"] = {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["9", 0]}}
    workflow["7"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["6", 0], "vae": ["1", 2]}}
    workflow["10"] = {"class_type": "SaveLatent", "inputs": {"samples": ["7", 0], "filename_prefix": "x"}}
    made = command(farm[:2], "--samples", "3", workflow=workflow, varied=False)
    told = made.run(status=1)
    assert told["counted"] == 0 and told["written"] == [] and not made.out.exists()
    assert "(node " in told["missing"]["1"] and "failed: " in told["missing"]["1"]
    assert [left_on(server) for server in farm[:2]] == [[], []]


def test_a_workflow_that_no_server_accepts_is_told_why(farm: list[Any], command: Callable[..., Calibrate]) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["1"]["inputs"]["ckpt_name"] = "absent.safetensors"
    told = command(farm[:2], workflow=workflow).run(status=1)
    assert told["counted"] == 0 and "does not accept the workflow" in told["said"] and "absent" in told["said"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--samples", "0"), "0 is less than 1"),
        (("--sizes", "64"), "'64' is no size like 768x1024"),
        (("--prompts", "builtin:skin"), "There is no built-in prompt group 'skin'"),
        (("--prompts", "absent.txt"), "There is no file of prompts absent.txt"),
        (("--name", "../x"), "--name '../x'"),
        (("--detail", "everything"), "--detail everything"),
        (("--model-node", "5"), "the models sampled in this workflow are CheckpointLoaderSimple (node 1)"),
    ],
)
def test_bad_options_are_one_sentence(
    farm: list[Any], command: Callable[..., Calibrate], refused: Callable[..., str], words: tuple[str, ...], said: str
) -> None:
    made = command(farm[:1], *words)
    assert said in refused(made)
    assert [path.name for path in made.folder.iterdir()] == ["api.json"]


def test_an_explicit_factor_that_the_workflow_lacks_is_refused(
    farm: list[Any], command: Callable[..., Calibrate], refused: Callable[..., str]
) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["4"] = {"class_type": "LoadLatent", "inputs": {"latent": "none.latent"}}
    assert "The size of this workflow cannot be varied" in refused(command(farm[:1], workflow=workflow))


def test_servers_with_different_models_are_refused(
    farm: list[Any], command: Callable[..., Calibrate], refused: Callable[..., str], server_models: Path
) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["1"]["inputs"]["ckpt_name"] = "differs.safetensors"
    for server, model in zip(farm, ("checkpoints/aio", "spare/shallower"), strict=False):
        os.link(server_models / f"{model}.safetensors", server.base / "models" / "checkpoints" / "differs.safetensors")
    assert "samples another model than the servers before it" in refused(command(farm[:2], workflow=workflow))
    assert left_on(farm[0]) == left_on(farm[1]) == []
