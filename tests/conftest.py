"""Finding a real ComfyUI and running things in it.

ComfyUI has an interpreter of its own, so nothing here imports it: small scripts run in processes with that
interpreter and answer in JSON, and the server tests start a server. Where there is no ComfyUI, these tests are
skipped and say so.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PACK = Path(__file__).resolve().parent.parent
MARK = "RESULT "
STATUS = "STATUS "
PACK_NAME = "nvfp4-studio"
START_SECONDS = 180


@dataclass(frozen=True)
class ComfyUI:
    """Where ComfyUI lies and the interpreter that has its packages."""

    path: Path
    python: Path

    def environment(self) -> dict[str, str]:
        """One thread per process: several processes with many threads spin against each other."""
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def find_comfyui() -> tuple[ComfyUI | None, str]:
    """COMFYUI_PATH, else comfy-cli's default workspace; COMFYUI_PYTHON, else the environment inside it."""
    given = os.environ.get("COMFYUI_PATH")
    path = Path(given) if given else Path.home() / "comfy" / "ComfyUI"
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        return None, f"no ComfyUI in {path}: set COMFYUI_PATH (and COMFYUI_PYTHON) to run this test"
    candidates = [
        path / environment / sub for environment in (".venv", "venv") for sub in ("bin/python", "Scripts/python.exe")
    ]
    chosen = os.environ.get("COMFYUI_PYTHON")
    python = Path(chosen) if chosen else next((c for c in candidates if c.exists()), Path(sys.executable))
    if not python.exists():
        return None, f"COMFYUI_PYTHON names {python}, which does not exist"
    probe = subprocess.run(
        [str(python), "-c", "import torch, comfy_kitchen, comfyui_frontend_package"], capture_output=True, text=True
    )
    if probe.returncode:
        return None, f"{python} cannot run ComfyUI: {probe.stderr.strip().splitlines()[-1]}"
    return ComfyUI(path, python), ""


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    """The real ComfyUI, or a skip that says what to set."""
    found, reason = find_comfyui()
    if found is None:
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def run_in_comfy(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run ``tests/comfy/scripts/<name>.py`` in ComfyUI's interpreter; its JSON answer comes back."""
    scripts = PACK / "tests" / "comfy" / "scripts"
    output = tmp_path_factory.mktemp("comfy-output") / "printed"
    given = {"comfyui": str(comfyui.path), "pack": str(PACK), "base": str(tmp_path_factory.mktemp("comfy-base"))}
    warm = subprocess.Popen(
        [str(comfyui.python), str(scripts / "warm.py"), json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=comfyui.environment(),
    )
    assert warm.stdin is not None and warm.stdout is not None

    def run(name: str, timeout: int = 300, **request: Any) -> dict[str, Any]:
        asked = {"script": str(scripts / f"{name}.py"), "request": request, "output": str(output), "seconds": timeout}
        warm.stdin.write(json.dumps(asked) + "\n")
        warm.stdin.flush()
        said = []
        while not (said and said[-1].startswith(STATUS)):
            said.append(warm.stdout.readline())
            assert said[-1], f"ComfyUI cannot be imported\n{''.join(said)[-8000:]}"
        printed = output.read_text("utf-8", "replace")
        answers = [line for line in printed.splitlines() if line.startswith(MARK)]
        if said[-1] != f"{STATUS}0\n" or not answers:
            pytest.fail(f"{name} ended with {said[-1]}{printed[-12000:]}")
        result: dict[str, Any] = json.loads(answers[-1][len(MARK) :])
        return result

    yield run
    warm.stdin.close()
    warm.wait()


@dataclass
class Server:
    """A running server and what a test asks of it."""

    base: Path
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def request(self, path: str, body: object = None, content_type: str = "application/json") -> tuple[int, Any]:
        """GET, or POST when there is a body; status and answer, JSON where it is JSON."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if data is not None else {}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode("utf-8", "replace")

    def queue(self, prompt: dict[str, Any], targets: list[str] | None = None) -> tuple[int, Any]:
        """Queue a prompt; ``targets`` are the nodes of a partial execution."""
        body = {"prompt": prompt, "client_id": uuid.uuid4().hex}
        return self.request("/prompt", {**body, "partial_execution_targets": targets} if targets else body)

    def finish(self, answer: tuple[int, Any], timeout: float = 120) -> dict[str, Any]:
        """Wait for a queued prompt and return its entry in the history."""
        assert answer[0] == 200, answer
        key = answer[1]["prompt_id"]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            history = self.request(f"/history/{key}")[1]
            if key in history:
                return history[key]
            time.sleep(0.1)
        raise AssertionError(f"prompt {key} is not done after {timeout} s\n{self.tail()}")

    def run(self, prompt: dict[str, Any], targets: list[str] | None = None) -> dict[str, Any]:
        """Queue and wait."""
        return self.finish(self.queue(prompt, targets))

    def token(self, node: str) -> str:
        """What the button asks for."""
        status, answer = self.request("/nvfp4_studio/conversion_token", {"node": node})
        assert status == 200, answer
        return str(answer["token"])

    def options(self, node: str, name: str) -> list[str]:
        """The choices of a combo right now."""
        return _choices(self.request(f"/object_info/{node}")[1][node]["input"]["required"][name])

    def tail(self) -> str:
        """The end of the server's log."""
        return self.log.read_text("utf-8", "replace")[-6000:]

    def stop(self) -> None:
        """End it, and wait."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


def _choices(spec: list[Any]) -> list[str]:
    return list(spec[0] if isinstance(spec[0], list) else spec[1]["options"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server_models(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder: a small Flux, an all-in-one SD3 file, and a Flux large enough to be cancelled.

    A shallower SD3 file lies where no loader looks, for tests that want another model.
    """
    models = tmp_path_factory.mktemp("server-models")
    run_in_comfy(
        "make_models",
        models={
            f"{models}/diffusion_models/flux.safetensors": {"kind": "flux"},
            f"{models}/diffusion_models/large.safetensors": {"kind": "flux", "hidden": 1536, "fp8": False},
            f"{models}/checkpoints/aio.safetensors": {"kind": "all-in-one"},
            f"{models}/spare/shallower.safetensors": {"kind": "all-in-one", "depth": 3},
        },
    )
    return models


@pytest.fixture(scope="session")
def start_server(comfyui: Any, server_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that starts a server with settings for the frontend, on a base folder of its own or once more on
    that of an earlier one."""

    def new_base(settings: dict[str, Any] | None) -> Path:
        base = tmp_path_factory.mktemp("server")
        (base / "custom_nodes").mkdir()
        os.symlink(PACK, base / "custom_nodes" / PACK_NAME, target_is_directory=True)
        for folder in ("input", "output", "temp", "user"):
            (base / folder).mkdir()
        if settings:
            (base / "user" / "default").mkdir()
            (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings), "utf-8")
        (base / "models").mkdir()
        for folder in server_models.iterdir():
            (base / "models" / folder.name).mkdir()
            for file in folder.iterdir():
                os.link(file, base / "models" / folder.name / file.name)
        return base

    def start(*flags: str, settings: dict[str, Any] | None = None, base: Path | None = None) -> Server:
        base = base or new_base(settings)
        port = _free_port()
        log = base / "server.log"
        command = [str(comfyui.python), "main.py", "--cpu", "--base-directory", str(base), "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_NAME, "--port", str(port)]
        command += ["--database-url", "sqlite:///:memory:", *flags]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=comfyui.path, stdout=out, stderr=subprocess.STDOUT, env=comfyui.environment()
            )
        server = Server(base, f"http://127.0.0.1:{port}", process, log)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            try:
                server.request("/queue")
            except OSError:
                time.sleep(0.3)
            else:
                return server
        server.stop()
        raise AssertionError(f"the server did not start\n{server.tail()}")

    return start


@pytest.fixture(scope="session")
def shared_server(start_server: Any) -> Iterator[Callable[..., Server]]:
    """A function that gives the server with these flags: started for the first test that asks, and then for all files.

    Who asks leaves neither links nor broken files in it, and expects neither its folders nor its caches empty.
    """
    running: dict[tuple[str, ...], Server] = {}

    def get(*flags: str) -> Server:
        if flags not in running:
            running[flags] = start_server(*flags)
        return running[flags]

    yield get
    for server in running.values():
        server.stop()


@pytest.fixture(scope="module", params=["--cache-classic", "--cache-lru 100", "--cache-none"])
def server(request: pytest.FixtureRequest, shared_server: Callable[..., Server]) -> Server:
    """One server per kind of cache."""
    return shared_server(*request.param.split())


@pytest.fixture(scope="session")
def classic_server(shared_server: Callable[..., Server]) -> Server:
    """The server with the classic cache, for what does not depend on it."""
    return shared_server("--cache-classic")


@pytest.fixture(scope="session")
def open_server(shared_server: Callable[..., Server]) -> Server:
    """A server that takes requests of any site as far as ComfyUI is concerned: its own origin check is off."""
    return shared_server("--cache-classic", "--enable-cors-header", "*")
