"""Finding a real ComfyUI and running things in it.

ComfyUI has an interpreter of its own, so nothing here imports it: small scripts run in a subprocess with that
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
def run_in_comfy(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Run ``tests/comfy/scripts/<name>.py`` in ComfyUI's interpreter; its JSON answer comes back."""
    base = tmp_path_factory.mktemp("comfy-base")

    def run(name: str, timeout: float = 300, **arguments: Any) -> dict[str, Any]:
        script = PACK / "tests" / "comfy" / "scripts" / f"{name}.py"
        request = json.dumps({"comfyui": str(comfyui.path), "pack": str(PACK), "base": str(base), **arguments})
        done = subprocess.run(
            [str(comfyui.python), str(script), request],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=comfyui.environment(),
        )
        answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        if done.returncode or not answers:
            pytest.fail(f"{name} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
        result: dict[str, Any] = json.loads(answers[-1][len(MARK) :])
        return result

    return run


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
    """A models folder: a small Flux, an all-in-one SD3 file, and a Flux large enough to be cancelled."""
    models = tmp_path_factory.mktemp("server-models")
    run_in_comfy(
        "make_models",
        models={
            f"{models}/diffusion_models/flux.safetensors": {"kind": "flux"},
            f"{models}/diffusion_models/large.safetensors": {"kind": "flux", "hidden": 1536, "fp8": False},
            f"{models}/checkpoints/aio.safetensors": {"kind": "all-in-one"},
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


@pytest.fixture(scope="module", params=["--cache-classic", "--cache-lru 100", "--cache-none"])
def server(request: pytest.FixtureRequest, start_server: Any) -> Iterator[Server]:
    """One server per kind of cache."""
    running = start_server(*request.param.split())
    yield running
    running.stop()


@pytest.fixture(scope="module")
def classic_server(start_server: Any) -> Iterator[Server]:
    """One server with the classic cache, for what does not depend on it."""
    running = start_server("--cache-classic")
    yield running
    running.stop()
