"""Finding a real ComfyUI and running things in it.

ComfyUI has an interpreter of its own, so nothing here imports it: small scripts run in a subprocess with that
interpreter and answer in JSON, and the server tests start a server. Where there is no ComfyUI, these tests are
skipped and say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PACK = Path(__file__).resolve().parent.parent
MARK = "RESULT "


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
