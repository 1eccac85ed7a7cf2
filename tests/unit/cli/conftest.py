"""A small checkpoint, a calibration that fits it, and a way to run the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nvfp4_studio.calibration import Calibration, Collector, save
from nvfp4_studio.cli.benching.hardware import described_hardware
from nvfp4_studio.cli.benching.journal import Journal
from nvfp4_studio.cli.benching.output import write_outputs
from nvfp4_studio.cli.benching.result import make_result
from nvfp4_studio.cli.benching.schedule import make_schedule
from nvfp4_studio.cli.main import main
from nvfp4_studio.cli.servers.prompts import Prompt
from nvfp4_studio.tests.unit.cli.observed import observed_layers

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
    layers = observed_layers(names, width, seed)
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, 15] = 1
    return Calibration(layers, {"final": "never ran"}, samplings=1, images=2, steps=1, schedule=schedule)


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.safetensors"
    save(calibration_for(layer_names()), path)
    return path


@dataclass(frozen=True)
class Comparison:
    """A finished comparison of two models in a folder, as `nvfp4-studio bench` leaves it."""

    folder: Path
    result: dict[str, Any]


@pytest.fixture
def comparison(tmp_path: Path) -> Callable[..., Comparison]:
    """Make one for models of these names: four pictures each, the second model's off by a little, its third failed."""

    def make(*models: str) -> Comparison:
        folder = tmp_path / "bench"
        schedule = make_schedule(4, len(models), 3, [Prompt(f"prompt {number}", "own") for number in range(4)], block=2)
        generator = torch.Generator().manual_seed(0)
        first = torch.randint(40, 200, (4, 24, 32, 3), generator=generator, dtype=torch.uint8)
        hardware = described_hardware({"devices": [{"type": "cpu", "name": "cpu"}]}, None)
        server = {"comfyui": "0.33.0", "pytorch": "2.11.0", "hardware": hardware, "loaders": ["Loader"], "varied": {}}
        with Journal(folder, {"seed": 3}) as journal:
            journal.begin(server)
            for segment in schedule.segments():
                for shot in segment.shots:
                    entry = {"model": segment.model, "picture": shot.number, "block": segment.block + 1, "place": 1}
                    if (segment.model, shot.number) == (1, 3):
                        journal.record({**entry, "failed": "it was cancelled on the server."})
                        continue
                    path = journal.picture_path(segment.model, shot.number, 0, ".png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray((first[shot.number - 1] + 3 * segment.model).numpy()).save(path)
                    journal.record(
                        {
                            **entry,
                            "kind": "cold" if shot is segment.shots[0] else "warm",
                            "seconds": round(2.4 / (segment.model + 1) + shot.number / 8, 3),
                            "pictures": [path.relative_to(folder).as_posix()],
                            "films": 0,
                            "reloaded": False,
                            "memory": {"ram": 10**9, "vram": 2 * 10**9},
                        }
                    )
            asked = {"prompts": "own", "seed": 3, "pictures": 4}
            result = make_result(journal, schedule, models, 0, asked, lambda done, total, label: None)
        write_outputs(result, folder)
        return Comparison(folder, result)

    return make


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v")})
        self.mlp = torch.nn.Linear(WIDTH, 2 * WIDTH)


@pytest.fixture(scope="module")
def calibrated_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.safetensors, three blocks in bfloat16, and statistics.safetensors with detail curvature."""
    folder = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(_Block() for _ in range(3))
    tensors = {name: tensor.detach().bfloat16() for name, tensor in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    collector = Collector(model, detail="curvature")
    with collector.observing(0.5):
        for number, block in enumerate(model.blocks):
            inputs = torch.randn(64, WIDTH) * torch.linspace(0.1, 1 + 20.0 * number, WIDTH)
            for linear in (*block.attn.values(), block.mlp):
                linear(inputs)
    save(collector.finish(images=1), folder / "statistics.safetensors")
    return folder
