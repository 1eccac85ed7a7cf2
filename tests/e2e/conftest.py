"""What the browser tests drive: ComfyUI's own frontend in a headless Chromium, through playwright-core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Locale": "en"}
RENDERERS = {"canvas": False, "nodes-2.0": True}
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def node_path() -> str | None:
    """The folder that holds playwright-core: PLAYWRIGHT_CORE, NODE_PATH, or npm's global folder."""
    npm = shutil.which("npm")
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True).stdout.strip() if npm else ""
    given = [os.environ.get("PLAYWRIGHT_CORE", ""), *os.environ.get("NODE_PATH", "").split(os.pathsep), root]
    return next((folder for folder in given if folder and Path(folder, "playwright-core").is_dir()), None)


@pytest.fixture(scope="session")
def browser() -> dict[str, str]:
    """Node, playwright-core and a Chromium, or a skip that says which one is missing."""
    node, modules = shutil.which("node"), node_path()
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if not node:
        pytest.skip("no node: install Node.js to run the browser tests")
    if not modules:
        pytest.skip("no playwright-core: npm install it and set PLAYWRIGHT_CORE to the node_modules that holds it")
    if not chromium:
        pytest.skip("no Chromium: install one or set CHROMIUM to its path")
    return {"node": node, "modules": modules, "chromium": chromium}


@pytest.fixture(scope="session")
def frontend(start_server: Any) -> Iterator[Any]:
    """One server for all browser tests: it takes longer to start than most visits."""
    running = start_server("--cache-classic", settings=SETTINGS)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def shown(frontend: Any) -> Callable[..., Any]:
    """That server, with its frontend in this renderer and palette, and in English."""

    def show(renderer: str = "canvas", palette: str = "dark") -> Any:
        chosen = {**SETTINGS, "Comfy.VueNodes.Enabled": RENDERERS[renderer], "Comfy.ColorPalette": palette}
        assert frontend.request("/settings", chosen)[0] == 200
        return frontend

    return show


@pytest.fixture(scope="session")
def visit(browser: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Run ``<script>.cjs`` with one JSON argument; the JSON line that it prints comes back."""

    def run(script: str, timeout: float = 240, **asked: Any) -> dict[str, Any]:
        request = json.dumps({**asked, "chromium": browser["chromium"]})
        done = subprocess.run(
            [browser["node"], str(Path(__file__).with_name(script)), request],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "NODE_PATH": browser["modules"]},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return run
