"""The driver against a small server that speaks ComfyUI's protocol and can be told to misbehave."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from nvfp4_studio.calibration import Calibration, load, save
from nvfp4_studio.calibration.errors import StudioError
from nvfp4_studio.cli.servers import driver, outcome
from nvfp4_studio.cli.servers.client import Server
from nvfp4_studio.cli.servers.errors import RequestError
from nvfp4_studio.cli.servers.run import Request, Result, calibrate
from nvfp4_studio.cli.servers.status import Status
from nvfp4_studio.converters.sensitivity import Probes, beside, load_probes, save_influence
from nvfp4_studio.tests.unit.cli.observed import observed_layers

CLASSES = {
    "Loader": {"input": {"required": {}}, "output": ["MODEL"]},
    "Sampler": {
        "input": {"required": {"model": ["MODEL", {}], "seed": ["INT", {}], "steps": ["INT", {}]}},
        "output": ["LATENT"],
    },
    "NVFP4Calibrate": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "name": ["STRING", {"default": "my-model"}],
                "mode": [["accumulate", "restart"], {}],
            },
            "optional": {"influence": ["BOOLEAN", {"default": False}]},
        },
        "output": ["MODEL"],
    },
}
WORKFLOW = {
    "1": {"class_type": "Loader", "inputs": {}},
    "2": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "seed": 1, "steps": 3}},
}
SAMPLES = 6


def statistics(seed: int, names: tuple[str, ...]) -> Calibration:
    return Calibration(observed_layers(names, 32, seed), {}, samplings=1, images=1, steps=1)


class Fake:
    """A server. behave(prompts so far) says how the next prompt ends."""

    def __init__(self, folder: Path, behave: Callable[[int], str] = lambda number: "success", **more: Any) -> None:
        self.folder = folder
        self.behave = behave
        self.layers: tuple[str, ...] = more.get("layers", ("a", "b"))
        self.version: str = more.get("version", "1")
        self.status = 200
        self.port = 0
        self.queued = 0
        self.running: dict[str, Any] = dict(more.get("foreign", {}))
        self.history: dict[str, Any] = {}
        self.interrupted: list[Any] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.names: list[str] = []
        self._runner: web.AppRunner | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(middlewares=[self._gate])
        app.router.add_get("/object_info/{name}", self._info)
        app.router.add_get("/nvfp4_studio/calibrations", self._list)
        app.router.add_get("/nvfp4_studio/calibrations/file", self._file)
        app.router.add_get("/nvfp4_studio/calibrations/influence", self._influence)
        app.router.add_post("/nvfp4_studio/calibrations/delete", self._delete)
        app.router.add_post("/prompt", self._prompt)
        app.router.add_get("/queue", self._queue)
        app.router.add_post("/queue", self._dequeue)
        app.router.add_post("/interrupt", self._interrupt)
        app.router.add_get("/history/{id}", self._history)
        app.router.add_get("/ws", self._socket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        assert self._runner is not None
        for socket in list(self.sockets.values()):
            await socket.close()
        await self._runner.cleanup()
        self.running.clear()

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        return await handler(request) if self.status == 200 else web.Response(status=self.status, text="<html>")

    async def _info(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({name: CLASSES[name]} if name in CLASSES else {})

    async def _list(self, request: web.Request) -> web.Response:
        names = [{"name": path.name} for path in self.folder.iterdir() if path.suffix != ".json"]
        return web.json_response({"version": self.version, "calibrations": names})

    async def _file(self, request: web.Request) -> web.Response:
        path = self.folder / request.query["name"]
        return web.Response(body=path.read_bytes()) if path.exists() else web.json_response({"error": "no"}, status=404)

    async def _influence(self, request: web.Request) -> web.Response:
        path = self.folder / f"{request.query['name']}.json"
        return web.Response(body=path.read_bytes()) if path.exists() else web.json_response({"error": "no"}, status=404)

    async def _delete(self, request: web.Request) -> web.Response:
        name = (await request.json())["name"]
        for path in (self.folder / name, self.folder / f"{name}.json"):
            path.unlink(missing_ok=True)
        return web.json_response({})

    async def _prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.queued += 1
        self.running[body["prompt_id"]] = body["prompt"]
        asyncio.get_running_loop().create_task(self._execute(body, self.behave(self.queued)))
        return web.json_response({"prompt_id": body["prompt_id"]})

    async def _queue(self, request: web.Request) -> web.Response:
        entries = [[0, key, prompt, {}, []] for key, prompt in self.running.items()]
        return web.json_response({"queue_running": entries[:1], "queue_pending": entries[1:]})

    async def _dequeue(self, request: web.Request) -> web.Response:
        for key in (await request.json())["delete"]:
            if key in list(self.running)[1:]:
                del self.running[key]
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        key = (await request.json()).get("prompt_id")
        self.interrupted.append(key)
        self.running.pop(key, None)
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        key = request.match_info["id"]
        return web.json_response({key: self.history[key]} if key in self.history else {})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for _ in socket:
            pass
        return socket

    async def _execute(self, body: dict[str, Any], end: str) -> None:
        await asyncio.sleep(0.01)
        key, prompt = body["prompt_id"], body["prompt"]
        if end in ("hang", "die"):
            if end == "die":
                await self.stop()
            return
        calibrate = next(node["inputs"] for node in prompt.values() if node["class_type"] == "NVFP4Calibrate")
        sampler = prompt["2"]["inputs"]
        assert prompt[sampler["model"][0]]["class_type"] == "NVFP4Calibrate" and calibrate["mode"] == "restart"
        self.names.append(calibrate["name"])
        if end in ("success", "silent", "cut"):
            save(statistics(sampler["seed"] % 1000, self.layers), self.folder / calibrate["name"])
            if calibrate.get("influence"):
                share = (sampler["seed"] % 1000) / 1000
                probes = {self.layers[sampler["seed"] % 2]: Probes.of(share)}
                save_influence(probes, self.folder / f"{calibrate['name']}.json")
        self.running.pop(key, None)
        if end == "vanish":
            return
        kind, data = "execution_success", {"prompt_id": key}
        if end == "error":
            kind = "execution_error"
            data |= {"node_id": "2", "node_type": "Sampler", "exception_message": "out of\nmemory \x1b[2J"}
        self.history[key] = {
            "status": {"status_str": "error" if end == "error" else "success", "messages": [[kind, data]]}
        }
        socket = self.sockets[body["client_id"]]
        if end == "cut":
            await socket.close()
        elif end != "silent":
            await socket.send_str("no json")
            await socket.send_json({"type": "progress", "data": {"prompt_id": key, "value": 1, "max": 3}})
            await socket.send_json({"type": kind, "data": data})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of waiting become fractions."""
    monkeypatch.setattr(outcome, "CHECK_SECONDS", 0.3)
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(driver, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(driver, "ABSENT_SECONDS", 1.0)


class Play:
    """A run against fakes in one event loop, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = io.StringIO()
        (folder / "api.json").write_text(json.dumps(WORKFLOW), "utf-8")

    def fake(self, name: str, behave: Callable[[int], str] = lambda number: "success", **more: Any) -> Fake:
        return Fake(self.folder / name, behave, **more)

    @property
    def out(self) -> Path:
        return self.folder / "out.safetensors"

    def run(
        self, *fakes: Fake, cancelled: Callable[[], bool] = lambda: False, beside: Any = None, **more: Any
    ) -> Result:
        async def play() -> Result:
            for fake in fakes:
                await fake.start()
            try:
                request = Request(
                    servers=tuple(fake.url for fake in fakes),
                    workflow=str(self.folder / "api.json"),
                    name="n",
                    samples=SAMPLES,
                    out=self.out,
                    **more,
                )
                helper = asyncio.ensure_future(beside()) if beside else None
                result = await calibrate(
                    request, cancelled, lambda prepared: None, lambda *counts: Status(*counts, stream=self.said)
                )
                if helper:
                    await helper
                return result
            finally:
                for fake in fakes:
                    await fake.stop()

        return asyncio.run(play())

    def is_right(self, **more: Any) -> bool:
        """Whether the files are the sums of all generations, each once."""
        other = Play(self.folder / "right")
        other.run(other.fake("only"), **more)
        influence = [beside(path).read_bytes() if beside(path).exists() else None for path in (self.out, other.out)]
        return load(self.out).same_as(load(other.out)) and influence[0] == influence[1]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    (tmp_path / "right").mkdir()
    return Play(tmp_path)


def test_a_generation_that_fails_here_is_done_there(play: Play) -> None:
    first = play.fake("first", lambda number: "error" if number == 2 else "success")
    result = play.run(first, play.fake("second"))
    assert result.counted == SAMPLES and not result.missing and play.is_right()
    assert "Sampler (node 2) failed: out of memory [2J" in play.said.getvalue()
    assert len(set(first.names)) == len(first.names)


@pytest.mark.parametrize("end", ["silent", "cut"])
def test_a_lost_message_is_looked_up(play: Play, end: str) -> None:
    result = play.run(play.fake("first", lambda number: end if number % 3 == 0 else "success"))
    assert result.counted == SAMPLES and play.said.getvalue() == "" and play.is_right()


def test_a_generation_that_someone_removed_is_tried_again(play: Play) -> None:
    result = play.run(play.fake("first", lambda number: "vanish" if number == 1 else "success"))
    assert result.counted == SAMPLES and "vanished from the server's queue" in play.said.getvalue() and play.is_right()


def test_what_fails_twice_is_missing_and_tried_again_by_the_next_run(play: Play) -> None:
    first = play.fake("first", lambda number: "error" if number in (1, 2) else "success")
    result = play.run(first)
    assert list(result.missing) == [1] and result.counted == SAMPLES - 1 and result.written == [play.out]
    assert load(play.out).images == SAMPLES - 1
    again = play.run(play.fake("first"))
    assert again.counted == SAMPLES and not again.missing and play.is_right()


def test_a_server_where_all_fails_is_left_out(play: Play) -> None:
    result = play.run(play.fake("bad", lambda number: "error"), play.fake("good"))
    assert result.counted == SAMPLES and not result.missing and play.is_right()
    alone = play.run(play.fake("alone", lambda number: "error"), overwrite=True)
    assert alone.counted == 0 and [server["state"] for server in alone.servers] == ["left out"]
    assert "3 generations in a row failed" in play.said.getvalue()


def test_a_server_that_dies_gives_its_generation_to_the_other(play: Play) -> None:
    dying = play.fake("dying", lambda number: "die" if number == 2 else "success")
    result = play.run(dying, play.fake("second"))
    assert result.counted == SAMPLES and play.is_right()
    assert [server["state"] for server in result.servers] == ["no answer", "done"]


def test_influence_is_counted_once_with_its_generation(play: Play) -> None:
    """Whatever servers, order and deaths: the same bytes."""
    dying = play.fake("dying", lambda number: "die" if number == 2 else "success")
    second = play.fake("second", lambda number: "error" if number == 1 else "success")
    result = play.run(dying, second, influence=True)
    assert result.counted == SAMPLES and play.is_right(influence=True)
    found = load_probes(beside(play.out))
    assert sum(probes.count for probes in found.values()) == SAMPLES
    assert result.influence[0].startswith(f"influence of {len(found)} of 2 layers")
    assert list(second.folder.iterdir()) == [], "nothing stays on the servers"
    again = play.run(play.fake("third"), overwrite=True)
    assert again.influence == [""] and not beside(play.out).exists(), "another run's influence is none of this one"


def test_influence_that_a_server_cannot_measure_is_refused(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(CLASSES["NVFP4Calibrate"]["input"], "optional")
    with pytest.raises(RequestError, match="--influence: the NVFP4Calibrate of .* measures none"):
        play.run(play.fake("old"), influence=True)


def test_a_server_that_comes_back_goes_on(play: Play) -> None:
    dying = play.fake("dying", lambda number: "die" if number == 2 else "success")

    async def restart() -> None:
        while dying.queued < 2:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        await dying.start()

    result = play.run(dying, beside=restart)
    assert result.counted == SAMPLES and play.is_right() and "is back" in play.said.getvalue()


def test_when_all_servers_are_gone_the_rest_is_kept(play: Play) -> None:
    result = play.run(play.fake("dying", lambda number: "die" if number == 3 else "success"))
    assert result.counted == 2 and len(result.missing) == SAMPLES - 2 and not result.stopped
    assert set(result.missing.values()) == {"no server was left for it"}
    assert play.run(play.fake("fresh")).counted == SAMPLES and play.is_right()


def test_stopping_touches_nobody_elses_prompt(play: Play) -> None:
    busy = play.fake("busy", lambda number: "hang", foreign={"theirs": {"1": {"class_type": "X", "inputs": {}}}})
    result = play.run(busy, cancelled=lambda: busy.queued > 0)
    assert result.stopped and busy.interrupted == [] and result.written == ()
    alone = play.fake("alone", lambda number: "hang")
    play.run(alone, cancelled=lambda: alone.queued > 0)
    assert len(alone.interrupted) == 1 and list(alone.folder.iterdir()) == []


def test_servers_with_other_packs_or_models_are_refused(play: Play) -> None:
    with pytest.raises(StudioError, match="has nvfp4-studio 1 and .* has 2: install the same version"):
        play.run(play.fake("first"), play.fake("second", version="2"))
    with pytest.raises(StudioError, match="samples another model than the servers before it"):
        play.run(play.fake("third"), play.fake("fourth", layers=("a", "c")))
    assert not play.out.exists()


def test_no_server_no_calibration(play: Play) -> None:
    gone = play.fake("gone")
    gone.status = 502
    with pytest.raises(StudioError, match="its proxy says 502"):
        play.run(gone)
    gone.status = 404
    with pytest.raises(StudioError, match="answered 404"):
        play.run(gone)


def test_an_existing_file_is_kept_unless_asked(play: Play) -> None:
    play.out.write_bytes(b"mine")
    with pytest.raises(RequestError, match="exists already"):
        play.run(play.fake("first"))
    assert play.out.read_bytes() == b"mine"
    assert play.run(play.fake("first"), overwrite=True).counted == SAMPLES and play.is_right()


@pytest.mark.parametrize("address", ["", "ftp://x", "http://", "http://x:port", "http://x/?a=b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(RequestError, match="--server"):
        Server(address)


def test_a_password_in_the_address_is_not_shown() -> None:
    assert Server("https://me:secret@farm.example/comfy/").name == "https://farm.example/comfy"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_line_for_each_server_and_one_for_all() -> None:
    now = [0.0]
    stream = _Terminal()
    status = Status(["http://a", "http://bb"], 10, 4, stream, lambda: now[0])
    status.joined("http://a")
    status.working("http://a", 5)
    status.progress("http://a", 2, 8)
    now[0] = 30.0
    status.counted("http://a", 2, 30.0)
    status.lost("http://bb", "http://bb does not answer.")
    status.draw()
    said = stream.getvalue()
    assert (
        "http://a   generation 5: 2 of 8; 2 images, 4.0 a minute" in said and "http://bb  no answer; 0 images" in said
    )
    assert "5 of 10 generations, 4.0 images a minute, 2:30 left" in said
    status.draw()
    assert stream.getvalue() == said, "not before a fifth of a second has passed"
    status.clear()
    assert stream.getvalue().endswith("\x1b[3A\x1b[J")
