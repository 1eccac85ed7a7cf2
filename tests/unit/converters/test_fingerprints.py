"""A calibration of another checkpoint with the same shapes is noticed when it is used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nvfp4_studio.calibration import Calibration, Collector
from nvfp4_studio.converters import Options, PlanError, make_plan, open_source

WIDTH = 128
NAMES = [f"blocks.{index}.{part}" for index in range(6) for part in ("up", "down")]


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(WIDTH, WIDTH, generator=generator) * 0.05 for name in NAMES}


def calibration_of(tensors: dict[str, torch.Tensor]) -> Calibration:
    model = nn.Module()
    model.blocks = nn.ModuleList()
    for index in range(6):
        block = nn.ModuleDict({part: nn.Linear(WIDTH, WIDTH, bias=False) for part in ("up", "down")})
        for part, layer in block.items():
            layer.weight = nn.Parameter(tensors[f"blocks.{index}.{part}"].clone())
        model.blocks.append(block)
    collector = Collector(model)
    with torch.inference_mode(), collector.observing(1.0):
        for block in model.blocks:
            block["down"](block["up"](torch.ones(2, WIDTH)))
    return collector.finish(images=1)


@pytest.fixture(params=["bf16", "fp8"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tensors = {}
    for name, weight in weights(1).items():
        scale = weight.abs().max() / 448
        if request.param == "fp8":
            tensors[f"model.diffusion_model.{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"model.diffusion_model.{name}.scale_weight"] = scale
        else:
            tensors[f"model.diffusion_model.{name}.weight"] = weight.bfloat16()
    if request.param == "fp8":
        tensors["model.diffusion_model.scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


def warnings(path: Path, calibration: Calibration) -> list[str]:
    with open_source(path) as source:
        plan = make_plan(source, Options(recipe="weight-only"), calibration)
    return [warning for warning in plan.warnings if "other weights" in warning]


def test_the_same_weights_fit_in_any_precision(source: Path) -> None:
    assert warnings(source, calibration_of(weights(1))) == []


def test_another_checkpoint_is_refused_by_name(source: Path) -> None:
    with pytest.raises(PlanError, match=r"another checkpoint than model.safetensors: 12 of 12 layers .*blocks.0.down"):
        warnings(source, calibration_of(weights(2)))


def test_a_few_other_layers_are_warned_about(source: Path) -> None:
    mixed = {**weights(1), "blocks.3.up": weights(2)["blocks.3.up"]}
    assert warnings(source, calibration_of(mixed)) == [
        "layer blocks.3.up has other weights than when it was calibrated"
    ]


def test_layers_without_fingerprint_or_under_another_name_are_not_compared(source: Path) -> None:
    found = calibration_of(weights(2))
    bare = {name: dataclasses.replace(layer, weight_samples=torch.zeros(0)) for name, layer in found.layers.items()}
    bare["blocks.9.renamed"] = found.layers["blocks.0.up"]
    assert warnings(source, dataclasses.replace(found, layers=bare)) == []
