"""The same rounding method on the same model many times over: which channels share a block is drawn anew each time.

A method's errors depend on which 16 weights stand side by side. Every trained model is one draw of them, and pictures
of one model, however many, share it; what a method is worth shows over draws. The input channels of a weight are
permuted, within their block of 128 in the Hessian, rounded, and put back, so that the layer computes the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from nvfp4_studio.calibration import LayerStatistics
from nvfp4_studio.converters.rounding import INFORMED, METHODS, candidates, scale_table
from nvfp4_studio.converters.rounding.e2m1 import decode
from nvfp4_studio.converters.rounding.gptq import WIDTH


def draw_order(columns: int, generator: torch.Generator) -> Tensor:
    """A permutation of int64 [columns] that leaves every channel in its block of 128."""
    starts = range(0, columns, WIDTH)
    return torch.cat([first + torch.randperm(min(WIDTH, columns - first), generator=generator) for first in starts])


@dataclass(frozen=True)
class PermutedCurvature:
    """A layer's second moments with its channels in another order."""

    inner: Any
    order: Tensor

    @property
    def rows(self) -> int:
        return int(self.inner.rows)

    def blocks(self) -> int:
        return int(self.inner.blocks())

    def gram(self, block: int) -> Tensor:
        own = self.order[block * WIDTH : (block + 1) * WIDTH] - block * WIDTH
        gram: Tensor = self.inner.gram(block)
        return gram[own][:, own]

    def mean_square(self) -> Tensor:
        mean_square: Tensor = self.inner.mean_square()
        return mean_square[self.order]


def redrawn(weight: Tensor, rounding: str, statistics: LayerStatistics, order: Tensor) -> Tensor:
    """What ``weight`` float32 [N, K] decodes to, rounded with its columns in this order; columns as they were."""
    rows = weight[:, order].contiguous()
    method = METHODS[rounding]
    tensor_scale = method.tensor_scale(rows.abs().amax())
    if rounding in INFORMED:
        curvature = cast(Any, PermutedCurvature(statistics.curvature, order))
        seen = replace(statistics, channels=None, curvature=curvature)
        packed, scales = INFORMED[rounding].rounder(tensor_scale, seen)(rows)
    else:
        packed, scales = (
            scale_table.round_rows(rows, tensor_scale, method.CANDIDATES)
            if len(method.CANDIDATES) > 1
            else candidates.round_rows(rows, tensor_scale, method.CANDIDATES[0])
        )
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2)
    decoded = decode(codes) * (tensor_scale * scales.float()).unsqueeze(-1)
    result = torch.empty_like(weight)
    result[:, order] = decoded.reshape(weight.shape)
    return result
