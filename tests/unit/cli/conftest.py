"""A small checkpoint, a calibration that fits it, and a way to run the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.calibration import Calibration, LayerObserver, observe, save
from nvfp4_studio.cli.main import main

WIDTH = 256
BLOCKS = 8
MATRICES = ("attn.qkv", "attn.proj", "mlp.0")


@dataclass(frozen=True)
class Result:
    """What a command said and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def command(*words: object) -> Result:
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return Result(status, said.out, said.err)

    return command


def layer_names() -> list[str]:
    return [f"blocks.{index}.{name}" for index in range(BLOCKS) for name in MATRICES]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Eight blocks in bfloat16 below ComfyUI's usual prefix, and a text encoder's layer."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"model.diffusion_model.{name}.weight": torch.randn(WIDTH, WIDTH, generator=generator).bfloat16()
        for name in layer_names()
    }
    tensors["model.diffusion_model.final.weight"] = torch.randn(16, WIDTH, generator=generator).bfloat16()
    tensors["text_encoders.t5.transformer.fc.weight"] = torch.randn(16, 16, generator=generator).bfloat16()
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, {"made": "for a test"})
    return path


def calibration_for(names: list[str], width: int = WIDTH, seed: int = 1) -> Calibration:
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name in names:
        observer = LayerObserver(torch.device("cpu"))
        seen = observe(torch.randn(4, width, generator=generator))
        assert seen is not None
        observer.observe(seen, torch.arange(16) == 15)
        layers[name] = observer.finish(width, width)
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, 15] = 1
    return Calibration(layers, {"final": "never ran"}, samplings=1, images=2, steps=1, schedule=schedule)


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.safetensors"
    save(calibration_for(layer_names()), path)
    return path
