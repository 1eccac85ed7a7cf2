"""The runner against a small server with ComfyUI's protocol, a cache, a clock of its own, and bad habits."""

from __future__ import annotations

import asyncio
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from nvfp4_studio.cli.benching import runner
from nvfp4_studio.cli.benching.memory import peaks_of
from nvfp4_studio.cli.benching.run import Request, Result, compare
from nvfp4_studio.cli.servers import outcome
from nvfp4_studio.cli.servers.errors import RequestError, Unreachable

FILES = ["slow.safetensors", "fast.safetensors"]
SECONDS, LOAD = {FILES[0]: 2.0, FILES[1]: 1.0}, 5.0
ENCODING = 0.5
MADE = {"recipe": "flux", "pinned": ["layer"] * 4000}
CLASSES: dict[str, Any] = {
    "Loader": {"input": {"required": {"unet_name": [FILES, {}]}}, "output": ["MODEL"]},
    "Text": {"input": {"required": {"text": ["STRING", {}]}}, "output": ["CONDITIONING"]},
    "Sampler": {
        "input": {"required": {"model": ["MODEL", {}], "positive": ["CONDITIONING", {}], "seed": ["INT", {}]}},
        "output": ["IMAGE"],
    },
    "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
    "PreviewImage": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
}
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "Loader", "inputs": {"unet_name": "slow.safetensors"}},
    "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "positive": ["4", 0], "seed": 1}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "Text", "inputs": {"text": "old"}},
}
COUNT, BLOCK = 6, 3


class Fake:
    """A server. behave(file, prompts so far) says how the next prompt ends: success, fail, die (and come back), end.

    cached: what the last prompt left, node -> inputs; loaded: the model in memory. frees: how often it was asked to
    forget; deaf: how many of these it does not hear at first.
    """

    def __init__(self, behave: Callable[[str, int], str] = lambda file, number: "success", *, deaf: int = 0) -> None:
        self.behave = behave
        self.deaf = deaf
        self.port = 0
        self.prompts: list[str] = []
        self.frees = 0
        self.clock = 0.0
        self.loaded: str | None = None
        self.cached: dict[str, Any] = {}
        self.foreign = False
        self.refusing = False
        self.history: dict[str, Any] = {}
        self.sockets: list[web.WebSocketResponse] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/object_info/{name}", self._info)
        app.router.add_get("/system_stats", self._stats)
        app.router.add_get("/view_metadata/{folder}", self._metadata)
        app.router.add_post("/free", self._free)
        app.router.add_post("/prompt", self._prompt)
        app.router.add_get("/queue", self._queue)
        app.router.add_post("/queue", self._empty)
        app.router.add_post("/interrupt", self._empty)
        app.router.add_get("/history/{id}", self._history)
        app.router.add_get("/view", self._view)
        app.router.add_get("/ws", self._socket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        assert self._runner is not None
        for socket in self.sockets:
            await socket.close()
        await self._runner.cleanup()
        self.loaded, self.cached = None, {}

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: CLASSES[name]} if name in CLASSES else {})

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {"ram_total": 9, "ram_free": 4}, "devices": [{"type": "cpu", "name": "c"}]})

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        """In pieces, as a network delivers it; the header of the slow model holds what is no JSON."""
        text = json.dumps(MADE) if request.query["filename"] == FILES[1] else '{"recipe": NaN}'
        answer = web.StreamResponse()
        await answer.prepare(request)
        raw = json.dumps({"nvfp4_studio": text}).encode()
        for start in range(0, len(raw), 9000):
            await answer.write(raw[start : start + 9000])
            await asyncio.sleep(0.001)
        return answer

    async def _free(self, request: web.Request) -> web.Response:
        self.frees += 1
        if self.frees > self.deaf:
            self.loaded, self.cached = None, {}
        return web.Response()

    async def _prompt(self, request: web.Request) -> web.Response:
        if self.refusing:
            return web.json_response({"error": "no room."}, status=400)
        body = await request.json()
        asyncio.get_running_loop().create_task(self._execute(body["prompt"], body["prompt_id"]))
        return web.json_response({"prompt_id": body["prompt_id"]})

    async def _queue(self, request: web.Request) -> web.Response:
        running = [[0, "foreign", {}, {}, []]] if self.foreign else []
        if self.foreign:  # somebody else's model takes the memory, and is done at the next look
            self.foreign, self.loaded, self.cached = False, None, {}
        return web.json_response({"queue_running": running, "queue_pending": []})

    async def _empty(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        key = request.match_info["id"]
        return web.json_response({key: self.history[key]} if key in self.history else {})

    async def _view(self, request: web.Request) -> web.Response:
        data = io.BytesIO()
        Image.new("RGB", (16, 16), (int(request.query["filename"].split("-")[0]) % 200,) * 3).save(data, format="PNG")
        return web.Response(body=data.getvalue())

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for _ in socket:
            pass
        return socket

    async def _execute(self, prompt: dict[str, Any], key: str) -> None:
        await asyncio.sleep(0.005)
        file, seed = prompt["1"]["inputs"]["unet_name"], prompt["2"]["inputs"]["seed"]
        text = prompt["4"]["inputs"]["text"]
        left = {"1": [file], "4": [text], **{node: [file, text, seed] for node in "23"}}
        self.prompts.append(file)
        end = self.behave(file, len(self.prompts))
        if end in ("die", "end"):
            await self.stop()
            await asyncio.sleep(0.05)
            if end == "die":
                await self.start()
            return
        cached = [node for node in prompt if self.cached.get(node) == left[node]]
        seconds = 0.0 if "2" in cached else SECONDS[file] - ENCODING + (LOAD if self.loaded != file else 0.0)
        seconds += 0.0 if "4" in cached else ENCODING
        messages = [["execution_start", {"prompt_id": key, "timestamp": 1000 * self.clock}]]
        messages.append(["execution_cached", {"prompt_id": key, "nodes": cached}])
        self.clock += seconds
        if end == "fail":
            kind, data = "execution_error", {"node_type": "Sampler", "node_id": "2", "exception_message": "no memory"}
            self.loaded, self.cached = None, {}
        else:
            kind, data = "execution_success", {}
            self.loaded = file
            self.cached = left
        data = {**data, "prompt_id": key, "timestamp": 1000 * self.clock}
        messages.append([kind, data])
        picture = {"filename": f"{seed}-.png", "subfolder": "", "type": "temp"}
        self.history[key] = {
            "status": {"status_str": "success" if end == "success" else "error", "messages": messages},
            "outputs": {"3": {"images": [picture]}},
        }
        for socket in self.sockets:
            if not socket.closed:
                await socket.send_json({"type": kind, "data": data})


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Compare both models on a fake server."""
    for name in ("FREE_SECONDS", "RETRY_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(runner, name, 0.01)
    monkeypatch.setattr(outcome, "CHECK_SECONDS", 0.3)
    monkeypatch.setattr(outcome, "PAUSE_SECONDS", 0.01)
    (tmp_path / "api.json").write_text(json.dumps(WORKFLOW), "utf-8")

    def run(
        fake: Fake, block: int = BLOCK, cancelled: Callable[[], bool] = lambda: False, prompts: str | None = None
    ) -> Result:
        async def whole() -> Result:
            await fake.start()
            try:
                url = f"http://127.0.0.1:{fake.port}"
                workflow, out = str(tmp_path / "api.json"), tmp_path / "out"
                request = Request(url, workflow, tuple(FILES), COUNT, out, prompts, seed=1, block=block)
                nothing: Callable[..., None] = lambda *what: None  # noqa: E731
                return await compare(request, cancelled, nothing, nothing, nothing)
            finally:
                await fake.stop()

        return asyncio.run(whole())

    return run


def figures(result: Result) -> dict[str, Any]:
    assert result.found is not None
    return {model["name"]: model for model in result.found["models"]}


def assert_exact(result: Result) -> None:
    """Cold starts hold the loading, warm times nothing else, whatever happened in between."""
    for name, model in figures(result).items():
        assert (model["made"], model["failed"]) == (COUNT, 0)
        assert (model["cold_start_s"]["least"], model["cold_start_s"]["most"]) == (SECONDS[name] + LOAD,) * 2
        times = model["seconds_per_image"]
        assert (times["count"], times["least"], times["most"]) == (COUNT - COUNT // BLOCK, *(SECONDS[name],) * 2)
        assert model["load_s"] == LOAD and model["reloaded"] == 0 and model["peak_bytes"] == {"ram": 5}
    assert figures(result)[FILES[1]]["speedup"]["times"] == pytest.approx(2.0)


def test_cold_and_warm_times_are_told_apart(bench: Callable[..., Result]) -> None:
    fake = Fake()
    assert_exact(bench(fake))
    assert len(fake.prompts) == 2 * COUNT and fake.frees == 2 * COUNT // BLOCK


def test_how_a_model_was_made_is_read_whole_from_its_header(bench: Callable[..., Result]) -> None:
    made_by = [model["made_by"] for model in figures(bench(Fake())).values()]
    assert made_by == [None, MADE], "no JSON with NaN, and all of what came in pieces"


def test_a_refusal_does_not_tell_the_servers_address(bench: Callable[..., Result]) -> None:
    refused = Fake()
    refused.refusing = True
    result = bench(refused)
    assert result.found is not None and "127.0.0.1" not in json.dumps(result.found)
    reasons = [failure["reason"] for failure in figures(result)[FILES[0]]["failures"]]
    assert reasons[0] == "the server/prompt answered 400: no room."


def test_without_a_seed_every_picture_needs_a_prompt_of_its_own(bench: Callable[..., Result], tmp_path: Path) -> None:
    workflow = copy.deepcopy(WORKFLOW)
    workflow["2"]["inputs"]["seed"] = ["4", 0]
    (tmp_path / "api.json").write_text(json.dumps(workflow), "utf-8")
    (tmp_path / "prompts.txt").write_text("one\ntwo", "utf-8")
    with pytest.raises(RequestError, match="2 prompts give no 6 different pictures: give -n 2, or more prompts"):
        bench(Fake(), prompts=str(tmp_path / "prompts.txt"))


def test_a_cancel_while_the_watch_on_memory_ends_is_not_lost() -> None:
    class Slow:
        async def system_stats(self) -> dict[str, Any]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                raise
            return {}

    async def generate() -> str:
        async with peaks_of(Slow()):  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
        return "went on"

    async def cancelled() -> None:
        work = asyncio.create_task(generate())
        await asyncio.sleep(0.03)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(cancelled())


def test_a_server_that_goes_away_and_comes_back(bench: Callable[..., Result]) -> None:
    fake = Fake(lambda file, number: "die" if number == 5 else "success")
    assert_exact(bench(fake))
    assert len(fake.prompts) == 2 * COUNT + 2  # the one that was lost, and one that loads the model again


def test_somebody_elses_prompt_does_not_get_into_a_time(bench: Callable[..., Result]) -> None:
    def behave(file: str, number: int) -> str:
        fake.foreign = number in (3, 7)
        return "success"

    fake = Fake(behave)
    assert_exact(bench(fake))


def test_a_server_that_forgets_late_is_asked_again(bench: Callable[..., Result]) -> None:
    fake = Fake(deaf=3)
    fake.loaded, fake.cached = FILES[0], {"1": [FILES[0]]}
    assert_exact(bench(fake))


def test_a_generation_that_ends_the_server_twice_is_a_failure(bench: Callable[..., Result]) -> None:
    deaths = iter(("die", "success", "die"))
    fake = Fake(lambda file, number: next(deaths, "success") if number >= 6 else "success")
    result = bench(fake)
    failed = [failure for model in figures(result).values() for failure in model["failures"]]
    assert len(failed) == 1 and "twice the server went away" in failed[0]["reason"]
    assert result.found is not None and "127.0.0.1" not in json.dumps(result.found), "a result is passed on"


def test_a_model_that_always_fails_is_tried_three_times_a_block(bench: Callable[..., Result]) -> None:
    fake = Fake(lambda file, number: "fail" if file == FILES[1] else "success")
    found = figures(bench(fake, block=COUNT))
    assert found[FILES[0]]["made"] == COUNT and found[FILES[1]]["failed"] == COUNT
    assert found[FILES[1]]["seconds_per_image"] is found[FILES[1]]["speedup"] is found[FILES[1]]["quality"] is None
    reasons = [failure["reason"] for failure in found[FILES[1]]["failures"]]
    assert all("Sampler (node 2) failed: no memory" in reason for reason in reasons[:3])
    assert reasons[3:] == ["not tried: 3 pictures before it failed"] * 3 and fake.prompts.count(FILES[1]) == 3


def test_a_failure_in_between_does_not_get_into_the_next_time(bench: Callable[..., Result]) -> None:
    fake = Fake(lambda file, number: "fail" if number == 2 else "success")
    found = figures(bench(fake))
    assert sorted(model["failed"] for model in found.values()) == [0, 1]
    for name, model in found.items():
        assert model["seconds_per_image"]["most"] == SECONDS[name]


def test_stopped_while_pictures_are_compared_it_needs_no_server_to_go_on(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    journal = tmp_path / "out" / "journal.jsonl"

    def all_made() -> bool:
        return journal.exists() and journal.read_text("utf-8").count('"picture"') == 2 * COUNT

    stopped = bench(Fake(), cancelled=all_made)
    assert stopped.found is None and stopped.done == 2 * COUNT
    silent = Fake()
    assert_exact(bench(silent))
    assert silent.prompts == []


def test_a_server_that_stays_away_is_told(bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ABSENT_SECONDS", 0.1)
    with pytest.raises(Unreachable, match="The same command continues"):
        bench(Fake(lambda file, number: "end" if number == 3 else "success"))
