"""Layers of the demo models with what came into them, and the error of what they compute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from quality.pictures import calibrate
from safetensors.torch import save_file
from torch import Tensor

from nvfp4_studio.calibration import LayerStatistics
from nvfp4_studio.converters import Options, make_plan
from nvfp4_studio.converters.formats import nvfp4
from nvfp4_studio.converters.source import open_source
from nvfp4_studio.demo.runtime import load_model
from nvfp4_studio.demo.train import CHECKPOINTS

PREFIX = "transformer_blocks"
"""All converters take the layers whose names start so."""
CALIBRATION_SEEDS, FRESH_SEEDS = range(4), range(100, 104)


@dataclass(frozen=True)
class Layer:
    """A Linear that the family's recipe makes NVFP4.

    ``key``: its name in the file that everybody converts. ``weight`` bfloat16 [N, K]. ``statistics``: of calibrating,
    detail curvature. ``seen`` [n, K]: some of those inputs, for tools that calibrate on rows. ``fresh`` [n, K]: inputs of
    samplings that nobody calibrated on, by which all are judged; both bfloat16.
    """

    key: str
    weight: Tensor
    statistics: LayerStatistics
    seen: Tensor
    fresh: Tensor


def layers_of(model: str) -> list[Layer]:
    """The layers of one demo model, a key of ``CHECKPOINTS``."""
    path = CHECKPOINTS[model]
    original = load_model(path)
    calibrated = calibrate(path, CALIBRATION_SEEDS, "curvature")
    with open_source(path) as source:
        modules = [layer.module for layer in make_plan(source, Options()).layers if layer.format == nvfp4.NAME]
    rows = {
        name: [calibrate(path, range(seed, seed + 1), "curvature").layers for seed in seeds]
        for name, seeds in {"seen": CALIBRATION_SEEDS, "fresh": FRESH_SEEDS}.items()
    }
    found = []
    for number, module in enumerate(modules):
        kept = {name: torch.cat([layers[module].reservoir.values() for layers in runs]) for name, runs in rows.items()}
        weight = original.get_submodule(module).weight.bfloat16()
        found.append(Layer(f"{PREFIX}.{number}.linear", weight, calibrated.layers[module], **kept))
    return found


def write_source(layers: Iterable[Layer], path: Path) -> None:
    """The file that everybody converts."""
    save_file({f"{layer.key}.weight": layer.weight for layer in layers}, path)


@dataclass(frozen=True)
class Errors:
    """Output SQNR in dB of each layer: with quantized inputs, and with quantized weights alone."""

    quantized: list[float]
    emulated: list[float]

    def to_json(self) -> dict[str, float]:
        return {
            "w4a4_db": round(statistics.fmean(self.quantized), 3),
            "w4a16_db": round(statistics.fmean(self.emulated), 3),
            "worst_w4a4_db": round(min(self.quantized), 3),
        }


def sqnr_db(wanted: Tensor, got: Tensor) -> float:
    """10·log10(Σ y² / Σ (y − y')²)."""
    difference = (wanted.double() - got.double()).square().sum()
    return 10 * math.log10(float(wanted.double().square().sum() / difference))


def errors_of(layers: Iterable[Layer], decoded: dict[str, tuple[Tensor, Tensor | None]]) -> Errors:
    """Errors of decoded weights with their pre_quant_scale, by keys; every input is scaled by its own amax."""
    quantized, emulated = [], []
    for layer in layers:
        weight, scale = decoded[layer.key]
        wanted = layer.fresh.float() @ layer.weight.float().T
        values = layer.fresh if scale is None else layer.fresh * scale
        quantized.append(sqnr_db(wanted, nvfp4.quantized_input(values, None) @ weight.T))
        emulated.append(sqnr_db(wanted, values.float() @ weight.T))
    return Errors(quantized, emulated)
