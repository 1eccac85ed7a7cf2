"""The server that runs the demo model, for the tests that compare pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.converters import Options, convert
from nvfp4_studio.demo.run import SOURCE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def digits(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with the demo model in FP8 (source, and a copy, other), two conversions of it (auto and nearest), and
    nodes that stand for encoder and VAE."""
    base = tmp_path_factory.mktemp("digits")
    models = base / "models" / "diffusion_models"
    for folder in (models, base / "custom_nodes", *(base / name for name in ("input", "output", "temp", "user"))):
        folder.mkdir(parents=True)
    os.symlink(ROOT, base / "custom_nodes" / "nvfp4-studio", target_is_directory=True)
    os.symlink(ROOT / "tests" / "server" / "packs" / "digits.py", base / "custom_nodes" / "digits.py")
    for name in ("source", "other"):
        shutil.copy(SOURCE, models / f"{name}.safetensors")
    for rounding in ("auto", "nearest"):
        convert(SOURCE, models / f"{rounding}.safetensors", Options(rounding=rounding), device="cpu")
    server = start_server("--cache-classic", "--whitelist-custom-nodes", "nvfp4-studio", "digits.py", base=base)
    yield server
    server.stop()
