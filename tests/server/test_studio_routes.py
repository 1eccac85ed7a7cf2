"""The studio's routes on a server with ``--enable-cors-header``, which takes ComfyUI's own origin check away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import torch

from nvfp4_studio.calibration import BINS, SCHEDULE_BINS, Calibration, LayerStatistics, bin_index, save
from nvfp4_studio.converters import open_source
from nvfp4_studio.converters.layers import recognise

FLUX = "diffusion_models/flux.safetensors"
AIO = "checkpoints/aio.safetensors"


@pytest.fixture(scope="module")
def server(open_server: Any) -> Any:
    return open_server


def get(server: Any, path: str) -> Any:
    status, answer = server.request(f"/nvfp4_studio/{path}")
    assert status == 200, answer
    return answer


def post(server: Any, path: str, **body: Any) -> Any:
    status, answer = server.request(f"/nvfp4_studio/{path}", body)
    assert status == 200, answer
    return answer


# Step 1: sources


def test_every_checkpoint_is_listed_with_its_size(server: Any) -> None:
    found = {entry["id"]: entry for entry in get(server, "sources")["sources"]}
    assert {FLUX, AIO, "diffusion_models/large.safetensors"} <= found.keys()
    file = server.base / "models" / FLUX
    assert found[FLUX]["bytes"] == file.stat().st_size and found[FLUX]["modified_ns"] == file.stat().st_mtime_ns


def test_a_source_is_described_from_its_header(server: Any) -> None:
    found = post(server, "source", id=FLUX)
    assert found["family"] == "flux" and found["default_recipe"] and found["layers"] == sum(found["formats"].values())
    assert found["convertible"] and found["problem"] is None and not found["all_in_one"]
    assert found["loader"] == {"class_type": "UNETLoader", "widget": "unet_name", "value": "flux.safetensors"}
    found = post(server, "source", id=AIO)
    assert found["all_in_one"] and found["loader"]["class_type"] == "CheckpointLoaderSimple"


def test_a_broken_source_is_one_sentence_without_a_path_of_the_server(server: Any) -> None:
    broken = server.base / "models" / "diffusion_models" / "broken.safetensors"
    broken.write_bytes((server.base / "models" / FLUX).read_bytes()[:5000])
    status, answer = server.request("/nvfp4_studio/source", {"id": "diffusion_models/broken.safetensors"})
    assert status == 200 and not answer["convertible"]
    assert "diffusion_models/broken.safetensors" in answer["problem"] and str(server.base) not in answer["problem"]
    broken.unlink()


# Step 2: calibrations


def calibrate(server: Any, name: str, samplings: int = 12) -> Path:
    """A calibration of the Flux as the calibrate node would leave it: every layer of the blocks seen."""
    path = server.base / "models" / "nvfp4_calibration" / f"{name}.safetensors"
    histogram = torch.zeros(BINS, dtype=torch.int64)
    histogram[int(bin_index(torch.tensor(2.0)))] = 64  # calls, and blocks of 16 elements
    layers = {}
    with open_source(server.base / "models" / FLUX) as source:
        for layer in recognise(source).layers.values():
            if "blocks." in layer.name:
                rows, columns = layer.shape
                layers[layer.name] = LayerStatistics(
                    columns,
                    rows,
                    64,
                    64 * 256,
                    1024,
                    0,
                    2.0,
                    histogram,
                    histogram,
                    16 * histogram,
                    torch.full((2, 16), 2.0),
                )
    schedule = torch.full((2, SCHEDULE_BINS), 8, dtype=torch.int64)
    save(Calibration(layers, {}, samplings, samplings, 64, schedule), path)
    return path


def test_a_calibration_is_described_and_drawn(server: Any) -> None:
    path = calibrate(server, "seen")
    found = post(server, "calibration", name="seen")
    assert found["bytes"] == path.stat().st_size and found["detail"] == "scales"
    assert found["samplings"] == 12 and found["calls"] == 64 and found["schedule"] == [16] * 16
    assert found["layers_observed"] == found["layers_total"] > 0 and found["schedule_seen"] == 1
    assert found["missing"] == "" and found["convergence"]["advice"]
    assert found["largest"]["layer"] and f"largest amax {found['largest']['amax']:g} in" in found["summary"]
    status, kind, data = picture(server, "calibration_plot?name=seen")
    assert (status, kind, data[:8]) == (200, "image/png", b"\x89PNG\r\n\x1a\n")
    layer = picture(server, "calibration_plot?name=seen&layer=double_blocks.0.img_attn.qkv")
    assert layer[:2] == (200, "image/png") and layer[2] != data
    assert server.request("/nvfp4_studio/calibration_plot?name=seen&layer=absent")[0] == 404


def test_calibrations_are_merged_into_a_new_file_and_deleted(server: Any) -> None:
    first, second = calibrate(server, "one", 5), calibrate(server, "two", 7)
    before = first.read_bytes(), second.read_bytes()
    assert post(server, "calibrations/merge", names=["one", "two"], into="both") == {"name": "both"}
    assert post(server, "calibration", name="both")["samplings"] == 12
    assert (first.read_bytes(), second.read_bytes()) == before
    status, answer = server.request("/nvfp4_studio/calibrations/merge", {"names": ["one", "two"], "into": "seen"})
    assert status == 400 and "already" in answer["error"]
    linked = first.with_name("one.influence.json")
    linked.symlink_to(server.base / "models" / FLUX)  # no influence, so reading it would be an error
    post(server, "calibrations/merge", names=["one", "two"], into="one")
    assert not linked.exists() and (server.base / "models" / FLUX).exists()
    for twice in (["one", "one.safetensors"], ["one", " one "]):
        status, answer = server.request("/nvfp4_studio/calibrations/merge", {"names": twice, "into": "twice"})
        assert status == 400 and "different" in answer["error"]
    post(server, "calibrations/delete", name="both")
    assert "both" not in [entry["name"] for entry in get(server, "calibrations")["calibrations"]]


def picture(server: Any, path: str) -> tuple[int, str, bytes]:
    with urllib.request.urlopen(f"{server.url}/nvfp4_studio/{path}", timeout=60) as response:
        return response.status, response.headers["Content-Type"], response.read()


# Step 3: plan and recipes


def test_a_plan_has_every_layer_and_what_it_may_become(server: Any) -> None:
    plan = post(server, "plan", source=FLUX)
    layers = {layer["module"]: layer for layer in plan["layers"]}
    assert len(layers) == post(server, "source", id=FLUX)["layers"]
    assert plan["source_bytes"] == (server.base / "models" / FLUX).stat().st_size
    assert sum(plan["formats"].values()) == len(layers)
    quantized = [layer for layer in layers.values() if layer["format"] == "nvfp4"]
    assert quantized and all(layer["block"] and layer["kind"] in layer["module"] for layer in quantized)
    assert all(layer["predicted"]["sqnr_db"] > 15 and not layer["predicted"]["measured"] for layer in quantized)
    assert abs(sum(layer["predicted"]["share"] or 0 for layer in layers.values()) - 1) < 1e-6
    assert plan["speed"]["predicted"] > 0 and plan["speed"]["kernels"]
    guarded = layers["img_in"]
    assert "keep" in guarded["allowed"] and "nvfp4" not in guarded["allowed"] and "nvfp4" in quantized[0]["allowed"]


def test_a_plan_with_statistics_has_scales(server: Any) -> None:
    calibrate(server, "seen")
    plan = post(server, "plan", source=FLUX, calibration="seen")
    scaled = [layer for layer in plan["layers"] if layer["input_scale"] is not None]
    assert scaled and plan["calibration"] == "seen"
    drawn = {layer["module"]: layer["histogram"] for layer in plan["layers"]}
    assert drawn["double_blocks.0.img_attn.qkv"] and not drawn["img_in"]
    assert not any(layer["histogram"] for layer in post(server, "plan", source=FLUX)["layers"])


def test_pins_are_planned_saved_and_converted_from(server: Any) -> None:
    before = {layer["module"]: layer for layer in post(server, "plan", source=FLUX)["layers"]}
    module = next(name for name, layer in before.items() if layer["format"] == "nvfp4")
    asked = {"source": FLUX, "pins": {module: "mxfp8"}}
    plan = post(server, "plan", **asked)
    after = {layer["module"]: layer for layer in plan["layers"]}
    assert after[module]["format"] == "mxfp8" and after[module]["pinned"] and plan["summary"]["pinned"] == 1
    assert {name for name in before if before[name]["format"] != after[name]["format"]} == {module}
    assert post(server, "recipes/save", name="by-hand", plan=asked) == {"id": "my/by-hand"}
    status, answer = server.request("/nvfp4_studio/recipes/save", {"name": "by-hand", "plan": asked})
    assert status == 400 and "already" in answer["error"]
    listed = {recipe["id"]: recipe for recipe in get(server, "recipes")["recipes"]}
    assert listed["my/by-hand"]["mine"] and listed["my/by-hand"]["pinned"] == 1 and not listed["flux"]["mine"]
    again = {layer["module"]: layer for layer in post(server, "plan", source=FLUX, recipe="my/by-hand")["layers"]}
    assert {name: layer["format"] for name, layer in again.items()} == {
        n: layer["format"] for n, layer in after.items()
    }
    unpinned = post(server, "plan", source=FLUX, recipe="my/by-hand", pins={module: None})
    assert unpinned["formats"] == post(server, "plan", source=FLUX)["formats"]
    assert post(server, "recipes/delete", id="my/by-hand") == {"deleted": "my/by-hand"}
    assert "my/by-hand" not in [recipe["id"] for recipe in get(server, "recipes")["recipes"]]
    assert server.request("/nvfp4_studio/recipes/delete", {"id": "flux"})[0] == 400
    assert post(server, "recipes/save", name=" by-hand.json ", plan=asked) == {"id": "my/by-hand"}
    post(server, "recipes/delete", id="my/by-hand")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pins": {"img_in": "nvfp4"}}, "which it cannot be"),
        ({"pins": {"no.such.layer": "nvfp4"}}, "does not have"),
        ({"pins": {"img_in": "int3"}}, "choose one of"),
        ({"rounding": "upwards"}, "There is no rounding"),
        ({"layout": "checkpoint"}, "no all-in-one checkpoint"),
        ({"recipe": "my/absent"}, "There is no recipe"),
        ({"recipe": "/etc/passwd.json"}, "There is no recipe"),
        ({"calibration": "absent"}, "There is no calibration"),
        ({"sensitivity": "absent"}, "There is no sensitivity"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(server: Any, fields: dict[str, Any], said: str) -> None:
    status, answer = server.request("/nvfp4_studio/plan", {"source": FLUX, **fields})
    assert status in (400, 404) and said in answer["error"] and str(server.base) not in answer["error"]


# Step 4: conversions


def press(server: Any, name: str, **inputs: Any) -> tuple[int, Any]:
    """The prompt that the page queues."""
    asked = {
        "source": "diffusion_models/large.safetensors", "calibration": "none", "recipe": "weight-only",
        "input_scale": "p99.9", "rounding": "auto", "layout": "source", "output_name": name, "overwrite": False,
        "conversion_token": server.token("5"), **inputs,
    }  # fmt: skip
    answer: tuple[int, Any] = server.queue({"5": {"class_type": "NVFP4Convert", "inputs": asked}}, targets=["5"])
    return answer


def wait_for(server: Any, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The conversions once they fulfil a condition."""
    end = time.monotonic() + 60
    while not condition(found := get(server, "conversions")):
        assert time.monotonic() < end, server.tail()
        time.sleep(0.02)
    return dict(found)


def test_running_waiting_cancelled_and_failed_conversions_are_told(server: Any) -> None:
    first, second = press(server, "first"), press(server, "second")
    third = press(server, "third", calibration="absent")
    ids = [answer[1]["prompt_id"] for answer in (first, second, third)]
    found = wait_for(server, lambda now: any(entry["total"] for entry in now["running"]))
    (running,) = found["running"]
    assert running["prompt_id"] == ids[0] and running["node"] == "5"
    assert running["source"] == "diffusion_models/large.safetensors"
    assert running["target"] == "diffusion_models/first.safetensors" and 0 <= running["done"] <= running["total"]
    assert [entry["prompt_id"] for entry in found["queued"]] == ids[1:] and found["interrupted"] == []
    server.request("/interrupt", {"prompt_id": ids[0]})
    server.finish(third)
    ended = {entry["prompt_id"]: entry for entry in get(server, "conversions")["finished"]}
    assert ended[ids[0]]["cancelled"] and ended[ids[0]]["error"] is None
    assert ended[ids[1]]["error"] is None and not ended[ids[1]]["cancelled"]
    assert "There is no calibration 'absent'" in ended[ids[2]]["error"]
    server.finish(press(server, "second", recipe="auto"))
    said = get(server, "conversions")["finished"][0]["error"]
    assert said.startswith("diffusion_models/second.safetensors exists already") and str(server.base) not in said
    output = server.base / "output" / "diffusion_models"
    assert not (output / "first.safetensors").exists() and (output / "second.safetensors").exists()
    assert list(output.glob(".*")) == []


def test_a_recipe_of_ones_own_is_offered_by_the_node_and_converted_with(server: Any) -> None:
    module = next(
        layer["module"] for layer in post(server, "plan", source=FLUX)["layers"] if layer["format"] == "nvfp4"
    )
    post(server, "recipes/save", name="mine", plan={"source": FLUX, "pins": {module: "mxfp8"}})
    assert "my/mine" in server.options("NVFP4Convert", "recipe")
    entry = server.finish(press(server, "with-mine", source=FLUX, recipe="my/mine"))
    assert entry["status"]["status_str"] == "success", entry["status"]
    with open_source(server.base / "output" / "diffusion_models" / "with-mine.safetensors") as written:
        formats = {layer.name: layer.format for layer in recognise(written).layers.values()}
    assert formats[module] == "mxfp8" and "nvfp4" in formats.values()


def test_leftovers_are_listed_and_discarded(server: Any) -> None:
    output = server.base / "output" / "checkpoints" / "sub"
    output.mkdir(parents=True)
    left = {
        output / ".x.safetensors.part": bytes(1000),
        output / ".x.safetensors.journal": b'"print"\n{"a": [[0, 10, 7]]}\n',
    }
    for path, data in left.items():
        path.write_bytes(data)
    (found,) = get(server, "conversions")["interrupted"]
    assert found["id"] == "checkpoints/sub/x.safetensors" and (found["done"], found["total"]) == (10, 1000)
    assert found["options"] is None
    assert post(server, "conversions/discard", id=found["id"]) == {"deleted": found["id"]}
    assert list(output.iterdir()) == []
    assert server.request("/nvfp4_studio/conversions/discard", {"id": found["id"]})[0] in (400, 404)
    asked = {"source": FLUX, "output_name": "sub/x", "overwrite": True}
    for name, offered in (("sub/x", True), ("kept", False)):
        for path, data in left.items():
            path.write_bytes(data)
        (output / ".x.safetensors.asked").write_text(json.dumps({**asked, "output_name": name}))
        (found,) = get(server, "conversions")["interrupted"]
        assert (found["options"] is not None) == offered
        post(server, "conversions/discard", id=found["id"])
    assert list(output.iterdir()) == []


# Step 5: results


def converted(server: Any, name: str, **inputs: Any) -> str:
    """The id of a file converted by the node."""
    entry = server.finish(press(server, name, source=FLUX, **inputs))
    assert entry["status"]["status_str"] == "success", entry["status"]
    return f"diffusion_models/{name}.safetensors"


def test_results_are_listed_reported_drawn_and_deleted(server: Any) -> None:
    kept, gone = converted(server, "kept"), converted(server, "gone")
    found = {entry["id"]: entry for entry in get(server, "results")["results"]}
    assert {kept, gone} <= found.keys() and FLUX not in found
    entry = found[kept]
    assert entry["source"] == "flux.safetensors" and entry["family"] == "flux" and entry["formats"]["nvfp4"] > 0
    assert entry["mean_sqnr_db"] > 15 and entry["worst_layer"]
    report = post(server, "result", id=kept)
    assert report["loader"] == {"class_type": "UNETLoader", "widget": "unet_name", "value": "kept.safetensors"}
    assert report["loader"]["value"] in server.options("UNETLoader", "unet_name")
    assert report["problems"] == [] and len(report["plan"]["layers"]) > 10 and {"map", "size"} <= set(report["plots"])
    for name in report["plots"]:
        assert picture(server, f"result_plot?id={kept}&name={name}")[1:2] == ("image/png",)
    output = server.base / "output" / "diffusion_models"
    (output / "kept.report-map.png").unlink()
    assert picture(server, f"result_plot?id={kept}&name=map")[2][:4] == b"\x89PNG"
    assert post(server, "results/delete", id=gone) == {"deleted": gone}
    assert [path.name for path in output.iterdir() if path.name.startswith("gone")] == []
    assert gone not in [entry["id"] for entry in get(server, "results")["results"]]
    assert "gone.safetensors" not in server.options("UNETLoader", "unet_name")
    assert server.request("/nvfp4_studio/result", {"id": gone})[0] == 404


def test_a_result_without_its_report_is_still_told_and_usable(server: Any) -> None:
    result = converted(server, "lonely")
    for extra in (server.base / "output" / "diffusion_models").glob("lonely.report*"):
        extra.unlink()
    report = post(server, "result", id=result)
    assert report["loader"]["value"] == "lonely.safetensors" and "missing" in report["plan"]["warnings"][0]
    assert report["summary"]["output_bytes"] > 0 and report["plots"] == []
    assert server.request(f"/nvfp4_studio/result_plot?id={result}&name=map")[0] == 404


@pytest.fixture
def reported(server: Any) -> Iterator[Callable[..., str]]:
    """A function that puts another report beside a copy of a converted file, and gives the file's id."""
    output = server.base / "output" / "diffusion_models"
    good = output / "reported.safetensors"
    if not good.exists():
        converted(server, "reported")
    copy, report = output / "claimed.safetensors", output / "claimed.report.json"

    def put(text: str) -> str:
        copy.write_bytes(good.read_bytes())
        report.unlink(missing_ok=True)
        report.write_text(text)
        return "diffusion_models/claimed.safetensors"

    yield put
    for path in (copy, report):
        path.unlink(missing_ok=True)


def strict_json(server: Any, path: str, **body: Any) -> Any:
    """An answer as a browser reads it: NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(
        f"{server.url}/nvfp4_studio/{path}", data=data, headers={"Content-Type": "application/json"} if data else {}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read(), parse_constant=refuse)


LAYER = '{"name": "a.0.b", "module": "a.0.b", "format": "nvfp4", "error": {"sqnr_db": 20}}'


@pytest.mark.parametrize(
    ("summary", "plan"),
    [
        ('{"mean_sqnr_db": NaN, "worst_sqnr_db": 1e999}', f'{{"layers": [{LAYER}]}}'),
        ("{}", f'{{"layers": [{LAYER}], "formats": {"[" * 900 + "]" * 900}}}'),
        ("{}", f'{{"layers": [null, 7, {{}}, {LAYER}], "warnings": {{"a": 1}}, "repairs": [7]}}'),
        ("{}", f'{{"layers": [{LAYER}, {LAYER.replace("20", "NaN")}, {LAYER.replace("20", "9" * 400)}]}}'),
        ("{}", f'{{"layers": [{LAYER}, {LAYER.replace("a.0.b", "a.999999.b")}]}}'),
        ("{}", f'{{"layers": [{", ".join(LAYER.replace("a.0.b", f"a.0.b{number}") for number in range(3000))}]}}'),
    ],
)
def test_a_report_that_this_pack_did_not_write_breaks_no_page(
    server: Any, reported: Callable[..., str], summary: str, plan: str
) -> None:
    identity = reported(f'{{"summary": {summary}, "plan": {plan}}}')
    assert identity in [entry["id"] for entry in strict_json(server, "results")["results"]]
    found = strict_json(server, "result", id=identity)["plan"]
    assert all(layer["name"] and layer["format"] == "nvfp4" for layer in found["layers"]) and found["layers"]
    assert found["warnings"] == found["repairs"] == []
    assert server.request(f"/nvfp4_studio/result_plot?id={identity}&name=map")[0] in (200, 404)


def test_a_name_that_no_page_can_ask_for_is_not_listed(server: Any, reported: Callable[..., str]) -> None:
    path = server.base / "output" / reported("{}")
    odd = path.with_name("claimed\u202e.safetensors")
    path.rename(odd)
    listed = [entry["id"] for entry in get(server, "results")["results"]]
    odd.unlink()
    assert "diffusion_models/reported.safetensors" in listed and f"diffusion_models/{odd.name}" not in listed


def test_a_link_as_report_is_neither_read_nor_followed(server: Any, reported: Callable[..., str]) -> None:
    identity = reported("{}")
    report = server.base / "output" / "diffusion_models" / "claimed.report.json"
    far = server.base / "far.json"
    far.write_text('{"summary": {"secret": 1}, "plan": {"layers": []}}')
    report.unlink()
    report.symlink_to(far)
    assert "secret" not in post(server, "result", id=identity)["summary"]
    post(server, "results/delete", id=identity)
    assert far.exists() and not report.is_symlink()


def test_a_folder_with_the_name_of_a_report_stays(server: Any, reported: Callable[..., str]) -> None:
    identity = reported("{}")
    report = server.base / "output" / "diffusion_models" / "claimed.report.json"
    report.unlink()
    report.mkdir()
    post(server, "results/delete", id=identity)
    assert report.is_dir() and identity not in [entry["id"] for entry in get(server, "results")["results"]]
    report.rmdir()


# Events


@contextlib.contextmanager
def listening(server: Any) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The pack's events as a page receives them, while the block runs."""
    heard: list[tuple[str, dict[str, Any]]] = []
    connected, ended = threading.Event(), threading.Event()

    async def listen() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws") as socket:
            connected.set()
            while not ended.is_set():
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    message = await socket.receive(0.2)
                    if message.type == aiohttp.WSMsgType.TEXT:
                        event = message.json()
                        if event["type"].startswith("nvfp4_studio."):
                            heard.append((event["type"].partition(".")[2], event["data"]))

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    try:
        assert connected.wait(20)
        yield heard
        time.sleep(0.5)
    finally:
        ended.set()
        thread.join()


def test_pages_hear_of_conversions_and_samplings(server: Any) -> None:
    with listening(server) as heard:
        started = time.monotonic()
        entry = server.finish(press(server, "heard"))
        assert entry["status"]["status_str"] == "success", entry["status"]
        took = time.monotonic() - started
        server.run(sampling_prompt(7))
    told = [data for kind, data in heard if kind == "conversion"]
    assert told[0]["state"] == "running" and told[-1]["state"] == "finished" and told[-1]["error"] is None
    assert {entry["target"] for entry in told[1:]} == {"diffusion_models/heard.safetensors"}
    assert 3 <= len(told) <= 3 * took + 4
    counts = [data for kind, data in heard if kind == "calibration"]
    assert counts and counts[0]["running"] and not counts[-1]["running"]
    assert {data["name"] for data in counts} == {"kept-rows"} and counts[-1]["calls"] == 3
    assert "refresh" in [kind for kind, _ in heard]


# Sensitivity and budgets


@pytest.fixture(scope="module")
def measured(server: Any) -> str:
    """A sensitivity of the all-in-one file, measured by its node on inputs that a sampling kept."""
    entry = server.run(sampling_prompt(1))
    assert entry["status"]["status_str"] == "success", entry["status"]
    entry = server.run(sensitivity_prompt(server.token("5")), targets=["5"])
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert "layers measured in" in entry["outputs"]["5"]["nvfp4_status"][0]
    return "kept-rows"


def sampling_prompt(seed: int) -> dict[str, Any]:
    """Three steps of the all-in-one file that keep inputs of its layers."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "aio.safetensors"}},
        "2": {
            "class_type": "NVFP4Calibrate",
            "inputs": {"model": ["1", 0], "name": "kept-rows", "mode": "accumulate", "detail": "curvature"},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["1", 1]}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "model": ["2", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0],
            },
        },
        "7": {"class_type": "SaveLatent", "inputs": {"samples": ["6", 0], "filename_prefix": "latent"}},
    }  # fmt: skip


def sensitivity_prompt(token: str | None = None, **inputs: Any) -> dict[str, Any]:
    asked = {
        "source": AIO, "calibration": "kept-rows", "name": "", "formats": "usual", "input_scale": "p99.9",
        "timesteps": "uniform", "kernels": "auto", "overwrite": False, **inputs,
    }  # fmt: skip
    return {"5": {"class_type": "NVFP4Sensitivity", "inputs": asked | ({"conversion_token": token} if token else {})}}


def test_a_sensitivity_is_listed_drawn_and_gives_measured_errors(server: Any, measured: str) -> None:
    (found,) = [entry for entry in get(server, "sensitivities")["sensitivities"] if entry["name"] == measured]
    assert found["source"] == "aio.safetensors" and found["problem"] is None and found["layers"] > 10
    assert picture(server, f"sensitivity_plot?name={measured}")[2][:4] == b"\x89PNG"
    plan = post(server, "plan", source=AIO, calibration=measured, sensitivity=measured)
    changed = [layer for layer in plan["layers"] if layer["action"] == "quantize" and layer["allowed"]]
    assert changed and sum(layer["predicted"]["measured"] for layer in changed) > len(changed) / 2
    status, answer = server.request("/nvfp4_studio/plan", {"source": FLUX, "sensitivity": measured})
    assert status == 400 and "has other weights" in answer["error"]


def test_a_budget_is_kept_drawn_as_a_curve_and_saved_as_a_recipe(server: Any, measured: str) -> None:
    asked = {"source": AIO, "calibration": measured, "sensitivity": measured}
    free = post(server, "plan", **asked)
    limit = int((free["output_bytes"] + free["source_bytes"]) / 2)
    plan = post(server, "plan", **asked, budget=f"size<={limit / 1e6:.3f}MB")
    assert plan["output_bytes"] <= limit and plan["curve"]["by_size"] and plan["curve"]["recipes"]
    assert plan["summary"]["pinned"] == 0 and not any(layer["pinned"] for layer in plan["layers"])
    post(server, "recipes/save", name="budget", plan={**asked, "budget": f"size<={limit / 1e6:.3f}MB"})
    again = post(server, "plan", source=AIO, calibration=measured, recipe="my/budget")
    assert again["formats"] == plan["formats"]
    for budget, said in (("size<=1", "choose a sensitivity"), ("size>>1GB", "is no budget")):
        fields = {"source": AIO, "budget": budget} if "size<=" in budget else {**asked, "budget": budget}
        status, answer = server.request("/nvfp4_studio/plan", fields)
        assert status == 400 and said in answer["error"]
    status, answer = server.request("/nvfp4_studio/plan", {**asked, "budget": "size<=1", "rounding": "nearest"})
    assert status == 400 and "set rounding to auto" in answer["error"]


def test_the_sensitivity_node_measures_for_its_button_only(server: Any, measured: str) -> None:
    entry = server.run(sensitivity_prompt(name="ordinary"))
    assert "does not measure" in entry["outputs"]["5"]["nvfp4_status"][0]
    assert "ordinary" not in [found["name"] for found in get(server, "sensitivities")["sensitivities"]]
    entry = server.run(sensitivity_prompt(server.token("5")), targets=["5"])
    assert "already" in json.dumps(entry["status"])
    entry = server.run(sensitivity_prompt(server.token("5"), calibration="none", name="x"), targets=["5"])
    assert "choose one with detail curvature" in json.dumps(entry["status"])
    for name in ("../escaped", "/tmp/x", "nul"):
        assert server.queue(sensitivity_prompt(server.token("5"), name=name), targets=["5"])[0] == 400


# What nobody may do

HOSTILE = [
    "..",
    "../secret.safetensors",
    "..%2Fsecret.safetensors",
    "sub/../../../secret.safetensors",
    "..\\..\\secret.safetensors",
    "/etc/passwd",
    "//host/share/x.safetensors",
    "\\\\host\\share\\x.safetensors",
    "\\\\?\\C:\\x.safetensors",
    "C:\\x.safetensors",
    "nul",
    "COM1.safetensors",
    "file-link.safetensors",
    "folder-link/far.safetensors",
    "kept.safetensors:stream",
    "kept\0.safetensors",
    "ke\npt.safetensors",
    "kept.safetensors.",
    "",
    "x" * 201,
    "\U0001f98a" * 150 + ".safetensors",
    "\ud800.safetensors",
]
BY_ID = ("source", "conversions/discard", "result", "results/delete", "recipes/delete")
BY_NAME = ("calibration", "calibrations/delete", "sensitivities/delete")


@pytest.fixture(scope="module")
def outside(server: Any) -> Iterator[dict[Path, bytes]]:
    """Files that nobody may read or delete, with links to them in every folder, and a result that stays."""
    far = server.base / "outside"
    far.mkdir()
    result = server.base / "output" / converted(server, "guarded")
    calibrate(server, "seen")
    files = [
        far / "far.safetensors",
        far / "far.json",
        server.base / "secret.safetensors",
        server.base / "models" / "secret.json",
    ]
    for path in files:
        path.write_bytes(result.read_bytes())
    for folder in (
        "models/diffusion_models",
        "models/nvfp4_calibration",
        "models/nvfp4_recipes",
        "output/diffusion_models",
    ):
        (server.base / folder).mkdir(exist_ok=True)
        (server.base / folder / "file-link.safetensors").symlink_to(files[0])
        (server.base / folder / "file-link.json").symlink_to(files[1])
        (server.base / folder / "folder-link").symlink_to(far, target_is_directory=True)
    kept = [*files, result, server.base / "models" / FLUX, server.base / "models/nvfp4_calibration/seen.safetensors"]
    yield {path: path.read_bytes() for path in kept}
    for folder in (
        "models/diffusion_models",
        "models/nvfp4_calibration",
        "models/nvfp4_recipes",
        "output/diffusion_models",
    ):
        for name in ("file-link.safetensors", "file-link.json", "folder-link"):
            (server.base / folder / name).unlink()


def ids(name: str) -> list[str]:
    return [name, f"diffusion_models/{name}", f"checkpoints/{name}", f"my/{name.removesuffix('.safetensors')}"]


def untouched(outside: dict[Path, bytes]) -> bool:
    return all(path.read_bytes() == data for path, data in outside.items())


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_outside_is_named_read_or_deleted(server: Any, outside: dict[Path, bytes], name: str) -> None:
    bodies = [(path, {"id": identity}) for path in BY_ID for identity in ids(name)]
    bodies += [(path, {"name": name.removesuffix(".safetensors")}) for path in BY_NAME]
    bodies += [("plan", {"source": identity}) for identity in ids(name)]
    bodies += [("plan", {"source": FLUX, field: name}) for field in ("recipe", "calibration", "sensitivity") if name]
    bodies += [("calibrations/merge", {"names": ["seen", name], "into": "new"})]
    for path, body in bodies:
        status, answer = server.request(f"/nvfp4_studio/{path}", body)
        assert 400 <= status < 500 and set(answer) == {"error"}, (path, body, answer)
        assert str(server.base) not in answer["error"], (path, body, answer)
    for query in (
        f"calibration_plot?name={quote(name, errors='replace')}",
        *(f"result_plot?id={quote(id, errors='replace')}&name=map" for id in ids(name)),
    ):
        assert 400 <= server.request(f"/nvfp4_studio/{query}")[0] < 500, query
    assert untouched(outside)


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name not in ("..%2Fsecret.safetensors", "file-link.safetensors")]
)
def test_nothing_outside_is_written(server: Any, outside: dict[Path, bytes], name: str) -> None:
    before = sorted(path for path in server.base.rglob("*.json")) + sorted(server.base.rglob("*.safetensors"))
    for path, body in (
        ("recipes/save", {"name": name, "plan": {"source": FLUX}}),
        ("recipes/save", {"name": name, "plan": {"source": FLUX}, "overwrite": True}),
        ("calibrations/merge", {"names": ["seen", "one"], "into": name}),
    ):
        assert 400 <= server.request(f"/nvfp4_studio/{path}", body)[0] < 500, (path, body)
    assert sorted(path for path in server.base.rglob("*.json")) + sorted(server.base.rglob("*.safetensors")) == before
    assert untouched(outside)


def test_a_link_is_never_written_through(server: Any, outside: dict[Path, bytes]) -> None:
    body = {"name": "file-link", "plan": {"source": FLUX}, "overwrite": True}
    assert server.request("/nvfp4_studio/recipes/save", body)[0] in (400, 404)
    assert untouched(outside)


def test_files_that_this_pack_did_not_convert_are_no_results(server: Any, outside: dict[Path, bytes]) -> None:
    foreign = server.base / "output" / "diffusion_models" / "foreign.safetensors"
    foreign.write_bytes((server.base / "models" / FLUX).read_bytes())
    for path in ("result", "results/delete"):
        assert server.request(f"/nvfp4_studio/{path}", {"id": "diffusion_models/foreign.safetensors"})[0] == 404
        assert server.request(f"/nvfp4_studio/{path}", {"id": FLUX})[0] == 404
    assert foreign.exists() and untouched(outside)
    foreign.unlink()


POSTS = (*BY_ID, *BY_NAME, "plan", "recipes/save", "calibrations/merge")


@pytest.mark.parametrize("path", POSTS)
def test_malformed_bodies_are_refused(server: Any, outside: dict[Path, bytes], path: str) -> None:
    good = json.dumps({"id": "diffusion_models/guarded.safetensors", "name": "seen", "source": FLUX}).encode()
    for body, kind, wanted in (
        (good, "text/plain", {415}),
        (good, "application/x-www-form-urlencoded", {415}),
        (good, "multipart/form-data; boundary=x", {415}),
        (b"{", "application/json", {400}),
        (b"[]", "application/json", {400}),
        (b"\xff\xfe", "application/json", {400}),
        (b"[" * 4000, "application/json", {400}),
        (b"{}", "application/json", {400}),
        (b'{"id": 7, "name": {}, "source": []}', "application/json", {400}),
        (b'{"id": "' + b"x" * 100_000 + b'"}', "application/json", {413}),
    ):
        status, answer = server.request(f"/nvfp4_studio/{path}", body, kind)
        assert status in wanted and set(answer) == {"error"}, (body[:40], kind, answer)
    assert server.request(f"/nvfp4_studio/{path}")[0] in (404, 405)
    assert untouched(outside)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_are_refused(server: Any, outside: dict[Path, bytes], headers: dict[str, str]) -> None:
    bodies = {"id": "diffusion_models/guarded.safetensors", "name": "seen", "source": FLUX}
    for path in ("sources", "recipes", "conversions", "results", "sensitivities", "calibrations", *POSTS):
        data = json.dumps(bodies).encode() if path in POSTS else None
        kind = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(f"{server.url}/nvfp4_studio/{path}", data=data, headers={**kind, **headers})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 403, path
    assert untouched(outside)


@pytest.mark.parametrize(
    "fields",
    [
        {"pins": []},
        {"pins": {"x": 7}},
        {"pins": {"": "keep"}},
        {"pins": {"x" * 2000: "keep"}},
        {"budget": 7},
        {"budget": "size<=" + "9" * 200},
        {"input_scale": ["p99.9"]},
        {"layout": {"a": 1}},
        {"calibration": 7},
        {"sensitivity": [1]},
        {"recipe": {"rules": []}},
    ],
)
def test_odd_fields_of_a_plan_are_refused(server: Any, fields: dict[str, Any]) -> None:
    status, answer = server.request("/nvfp4_studio/plan", {"source": FLUX, **fields})
    assert status == 400 and set(answer) == {"error"}
