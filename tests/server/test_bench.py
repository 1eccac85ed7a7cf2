"""`nvfp4-studio bench` against a real server: complete, honest, and the same after a kill and a Ctrl-C."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nvfp4_studio.cli.benching.asking import BenchServer
from nvfp4_studio.cli.benching.timing import ServedFromCache, read_generation
from nvfp4_studio.cli.servers.outcome import success
from nvfp4_studio.tests.server.commands import Command

MODELS = ("source.safetensors", "auto.safetensors", "nearest.safetensors")
COUNT, BLOCK = 4, 2
PROMPTS = [f"a handwritten {digit}" for digit in (3, 1, 4, 8)]
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "other.safetensors", "weight_dtype": "default"}},
    "3": {"class_type": "DigitsTextEncode", "inputs": {"text": "7"}},
    "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
            "model": ["1", 0], "positive": ["3", 0], "negative": ["8", 0], "latent_image": ["4", 0],
        },
    },
    "6": {"class_type": "DigitsDecode", "inputs": {"samples": ["5", 0]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "bench"}},
    "8": {"class_type": "DigitsTextEncode", "inputs": {"text": "0"}},
}  # fmt: skip
TIMES = {"seconds", "cold_start_s", "load_s", "seconds_per_image", "speedup", "peak_bytes", "memory", "drift", "notes"}


class Bench(Command):
    """`bench` into the folder out."""

    def done(self) -> int:
        path = self.folder / "out" / "journal.jsonl"
        return path.read_text("utf-8").count('"picture"') if path.exists() else 0


@pytest.fixture(scope="module")
def command(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    def make(*words: str, prompts: list[str] = PROMPTS, models: tuple[str, ...] = MODELS) -> Bench:
        folder = tmp_path_factory.mktemp("bench")
        (folder / "api.json").write_text(json.dumps(WORKFLOW), "utf-8")
        (folder / "prompts.txt").write_text("\n".join(prompts), "utf-8")
        fixed = ["bench", "--server", digits.url, "--workflow", "api.json", "--prompts", "prompts.txt"]
        fixed += ["--seed", "7", "--out", "out"]
        counts = ["-n", str(len(prompts)), "--block", str(BLOCK)]
        return Bench(folder, [*fixed, *counts, "--models", *models, *words])

    return make


@pytest.fixture(scope="module")
def whole(command: Callable[..., Bench], digits: Any) -> tuple[Bench, dict[str, Any]]:
    """A comparison that nothing disturbed."""
    made, before = command(), saved_on(digits)
    told = made.run()
    assert saved_on(digits) == before, "pictures were left in the server's output folder"
    return made, told


def saved_on(server: Any) -> list[Path]:
    return sorted((server.base / "output").iterdir())


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def test_every_model_makes_every_picture(whole: tuple[Bench, dict[str, Any]]) -> None:
    made, told = whole
    assert [model["name"] for model in told["models"]] == list(MODELS)
    for model in told["models"]:
        assert (model["made"], model["failed"], model["images"]) == (COUNT, 0, COUNT)
        assert model["cold_start_s"]["count"] == COUNT // BLOCK
        assert model["seconds_per_image"]["count"] == COUNT - COUNT // BLOCK and model["reloaded"] == 0
    assert told["server"]["loaders"] == ["UNETLoader (node 1) unet_name"]
    assert [shot["text"] for shot in told["pictures"]] == PROMPTS
    assert told["models"][1]["made_by"]["rounding"] == "auto" and told["models"][0]["made_by"] is None
    assert [sorted(order) for order in told["orders"]] == [sorted(MODELS)] * 2 and told["orders"][0] != told["orders"][
        1
    ]
    assert {path.name for path in (made.folder / "out").iterdir()} == {
        "bench.json", "bench.md", "contact-sheet.png", "times.png", "psnr.png", "journal.jsonl", "pictures"
    }  # fmt: skip


def test_a_machine_without_nvfp4_is_told_everywhere(whole: tuple[Bench, dict[str, Any]]) -> None:
    made, told = whole
    hardware = told["server"]["hardware"]
    assert hardware["nvfp4"] is False and hardware["told_by"] == "nvfp4-studio on the server"
    sentence = "The CPU has no NVFP4 tensor cores: ComfyUI multiplied in full precision"
    assert told["notes"][0].startswith(sentence)
    assert sentence in (made.folder / "out" / "bench.md").read_text("utf-8")


def test_quality_is_that_of_the_pictures_on_disk(whole: tuple[Bench, dict[str, Any]]) -> None:
    made, told = whole
    for model, figures in enumerate(told["models"][1:], 1):
        expected = []
        for picture in range(1, COUNT + 1):
            one, other = (
                np.asarray(
                    Image.open(made.folder / "out" / "pictures" / f"model-{number}" / f"{picture:04}.png"), float
                )
                for number in (1, model + 1)
            )
            expected.append(10 * math.log10(255**2 / np.mean((one - other) ** 2)))
        found = [
            entry["scores"]["psnr_db"]
            for entry in sorted(told["generations"], key=lambda entry: entry["picture"])
            if entry["model"] == model
        ]
        assert found == pytest.approx(expected, abs=1e-9)
        assert figures["quality"]["psnr_db"]["mean"] == pytest.approx(np.mean(expected)) and np.mean(expected) > 25
        assert figures["quality"]["psnr_db"]["low"] < np.mean(expected) < figures["quality"]["psnr_db"]["high"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_killed_and_interrupted_it_goes_on_to_the_same_result(
    whole: tuple[Bench, dict[str, Any]], command: Callable[..., Bench], digits: Any
) -> None:
    made = command()
    process = made.start()
    made.wait_for(3, process)
    process.kill()
    process.communicate()
    before = made.done()
    process = made.start()
    made.wait_for(before + 3, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in err and "Traceback" not in err
    queue = digits.request("/queue")[1]
    assert queue == {"queue_running": [], "queue_pending": []}
    assert made.done() < len(MODELS) * COUNT
    again = made.run()
    assert without_times(again) == without_times({**whole[1], "said": again["said"]})
    for picture in (made.folder / "out" / "pictures").rglob("*.png"):
        twin = whole[0].folder / picture.relative_to(made.folder)
        assert picture.read_bytes() == twin.read_bytes()


def test_a_complete_comparison_asks_no_server(whole: tuple[Bench, dict[str, Any]]) -> None:
    made, told = whole
    again = Bench(made.folder, [*made.words, "--server", "http://127.0.0.1:9", "--reference", MODELS[2]]).run()
    assert again["request"]["reference"] == MODELS[2] and again["models"][2]["quality"] is None
    assert again["generations"][0]["seconds"] == told["generations"][0]["seconds"]


def test_failures_are_counted_with_their_reason(command: Callable[..., Bench]) -> None:
    told = command(prompts=["a 1", "fail here", "a 3"], models=MODELS[:2]).run(status=1)
    for model in told["models"]:
        assert (model["generations"], model["made"], model["failed"], model["images"]) == (3, 2, 1, 2)
        assert model["failures"] == [{"picture": 2, "reason": "DigitsTextEncode (node 3) failed: this text fails"}]
    assert told["models"][1]["quality"]["pairs"] == 2
    assert any("1 of 3 generations failed" in note for note in told["notes"])


def test_a_picture_out_of_the_servers_cache_is_no_time(digits: Any) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["7"]["class_type"] = "PreviewImage"
    workflow["7"]["inputs"].pop("filename_prefix")

    async def twice() -> list[dict[str, Any]]:
        entries = []
        async with BenchServer(digits.url) as server:
            for _ in range(2):
                await server.listen()
                prompt_id = await server.queue(workflow, str(uuid.uuid4()))
                await success(server, prompt_id, lambda value, limit: None)
                while (entry := await server.ended(prompt_id)) is None:
                    await asyncio.sleep(0.05)
                entries.append(entry)
        return entries

    first, second = asyncio.run(twice())
    fresh = frozenset({"5", "6", "7"})
    assert read_generation(first, fresh).seconds > 0 and len(read_generation(first, fresh).pictures) == 1
    with pytest.raises(ServedFromCache, match="node 5 did not run"):
        read_generation(second, fresh)
