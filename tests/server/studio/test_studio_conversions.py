"""Conversions that run, wait, end and are left over, and what pages hear of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp

from nvfp4_studio.converters import open_source
from nvfp4_studio.converters.layers import recognise
from nvfp4_studio.tests.server.studio.asking import (
    FLUX,
    get,
    post,
    press,
    sampling_prompt,
)


def wait_for(server: Any, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The conversions once they fulfil a condition."""
    end = time.monotonic() + 60
    while not condition(found := get(server, "conversions")):
        assert time.monotonic() < end, server.tail()
        time.sleep(0.02)
    return dict(found)


def cancelled(server: Any, prompt_id: str) -> bool:
    """What ComfyUI says to the page's cancel."""
    status, answer = server.request(f"/api/jobs/{prompt_id}/cancel", {})
    assert status == 200, answer
    return bool(answer["cancelled"])


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
    assert cancelled(server, ids[0])
    server.finish(third)
    assert not cancelled(server, ids[0]), "it has ended, and nothing else is meant"
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


def test_what_waits_to_be_converted_or_measured_is_told_and_cancelled(server: Any) -> None:
    running = press(server, "in-front")[1]["prompt_id"]
    waiting = press(server, "waiting")[1]["prompt_id"]
    inputs = {
        "source": FLUX, "calibration": "kept", "name": "", "formats": "usual", "input_scale": "p99.9",
        "timesteps": "uniform", "kernels": "auto", "overwrite": True,
    }  # fmt: skip
    ordinary = {"class_type": "NVFP4Sensitivity", "inputs": inputs}
    pressed = {"class_type": "NVFP4Sensitivity", "inputs": {**inputs, "conversion_token": server.token("7")}}
    measuring = server.queue({"6": ordinary, "7": pressed})[1]["prompt_id"]
    found = wait_for(server, lambda now: bool(now["running"]))
    assert [entry["prompt_id"] for entry in found["queued"]] == [waiting]
    (entry,) = found["measuring"]
    assert (entry["prompt_id"], entry["node"]) == (measuring, "7")
    assert (entry["source"], entry["calibration"], entry["name"]) == (FLUX, "kept", "")
    assert all(cancelled(server, prompt) for prompt in (waiting, measuring, running))
    status = server.finish((200, {"prompt_id": running}))["status"]
    assert "execution_interrupted" in [kind for kind, _ in status["messages"]] and status["status_str"] == "error"
    assert server.request(f"/history/{measuring}")[1] == {}, "a prompt that never ran has no history"
    found = get(server, "conversions")
    assert found["running"] == found["queued"] == found["measuring"] == []


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
        server.run(sampling_prompt(7, "heard"))
    told = [data for kind, data in heard if kind == "conversion"]
    assert told[0]["state"] == "running" and told[-1]["state"] == "finished" and told[-1]["error"] is None
    assert {entry["target"] for entry in told[1:]} == {"diffusion_models/heard.safetensors"}
    assert 3 <= len(told) <= 3 * took + 4
    counts = [data for kind, data in heard if kind == "calibration"]
    assert counts and counts[0]["running"] and not counts[-1]["running"]
    assert {data["name"] for data in counts} == {"heard"} and counts[-1]["calls"] == 3
    assert "refresh" in [kind for kind, _ in heard]
