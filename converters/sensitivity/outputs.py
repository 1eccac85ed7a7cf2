"""How far the outputs of a quantized layer are from those of the layer in full precision, on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..formats import FORMATS, Fields, Rows

WEIGHTS_AT_ONCE = 1 << 20
"""Weights decoded and multiplied by at once on a CPU: 4 MiB."""
CUDA_WEIGHTS_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class OutputError:
    """Distance of outputs y' [R, N] from y, rows weighted by w with Σw = 1.

    ``signal``: Σᵣ wᵣ·meanₙ y². ``noise``: the same of (y − y')², the mean squared error. ``largest``: max |y − y'| of any
    row, weighted or not. ``cosine``: of the angle between y and y' as wholes. ``rows``: R.
    """

    rows: int
    signal: float
    noise: float
    largest: float
    cosine: float

    @property
    def rmse(self) -> float:
        return math.sqrt(self.noise)

    @property
    def rel_rmse(self) -> float:
        """√(noise / signal); of an output that is zero, 0 when it stayed so and infinity otherwise."""
        return math.sqrt(self.noise / self.signal) if self.signal > 0 else (math.inf if self.noise > 0 else 0.0)


@dataclass(frozen=True)
class Computed:
    """What ComfyUI multiplies by in one layer: the input's treatment and the decoded weight.

    ``format``: as the tag says, None for a plain weight. ``quantizes``: whether the input is rounded first.
    ``input_scale``: of the layer, None without. ``pre_quant_scale``: [K] that the input is multiplied by beforehand.
    ``weight``: rows of the weight in float32.
    """

    format: str | None
    fields: Fields
    quantizes: bool
    input_scale: float | None
    pre_quant_scale: torch.Tensor | None
    weight: Rows

    def input(self, values: torch.Tensor) -> torch.Tensor:
        """The input as the kernels see it: float32 of bfloat16 [R, K], on the same device.

        A few rows are rounded on the CPU, where all formats' arithmetic is at home.
        """
        if self.pre_quant_scale is not None:
            values = values * self.pre_quant_scale.to(values.device, values.dtype)
        if self.format is None or not self.quantizes:
            return values.float()
        rounded = FORMATS[self.format].quantized_input(values.cpu(), self.input_scale, self.fields)
        return rounded.to(values.device)


def outputs(
    values: torch.Tensor, weight: Rows, shape: tuple[int, int], check: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """float32 [R, N] of an input float32 [R, K] on any device, without bias, the weight decoded piece by piece."""
    result = torch.empty(len(values), shape[0], device=values.device)
    for first, last in _pieces(shape, values.device):
        check()
        result[:, first:last] = values @ weight(first, last).to(values.device, torch.float32).T
    return result


def output_error(
    reference: torch.Tensor,
    computed: Computed,
    values: torch.Tensor,
    row_weights: torch.Tensor,
    check: Callable[[], None] = lambda: None,
) -> OutputError:
    """Compare a layer's outputs with the reference.

    Sums are float64; the products are float32, whose rounding is 100 dB below anything that is measured here.

    Args:
        reference: y float32 [R, N], from ``outputs`` with the source's weight and the input as it is.
        computed: the quantized layer.
        values: the input bfloat16 [R, K], on the device that computes.
        row_weights: float64 [R], summing to 1.
        check: called between pieces; may raise to cancel.
    """
    seen = computed.input(values)
    shape = reference.shape[1], values.shape[1]
    weights = row_weights.to(values.device).unsqueeze(1)
    sums = torch.zeros(4, dtype=torch.float64, device=values.device)
    for first, last in _pieces(shape, values.device):
        check()
        wanted = reference[:, first:last].double()
        found = (seen @ computed.weight(first, last).to(values.device, torch.float32).T).double()
        difference = found - wanted
        sums[0] += (wanted.square() * weights).sum()
        sums[1] += (difference.square() * weights).sum()
        sums[2] += (found.square() * weights).sum()
        sums[3] = torch.maximum(sums[3], difference.abs().amax())
    signal, noise, power, largest = sums.tolist()
    # Σ(y−y')² = Σy² + Σy'² − 2Σyy'
    cosine = (
        (signal + power - noise) / (2 * math.sqrt(signal * power)) if signal > 0 and power > 0 else float(noise == 0)
    )
    return OutputError(len(values), signal / shape[0], noise / shape[0], largest, min(1.0, cosine))


def _pieces(shape: tuple[int, int], device: torch.device) -> list[tuple[int, int]]:
    most = WEIGHTS_AT_ONCE if device.type == "cpu" else CUDA_WEIGHTS_AT_ONCE
    step = max(1, most // max(1, shape[1]))
    return [(first, min(shape[0], first + step)) for first in range(0, shape[0], step)]
