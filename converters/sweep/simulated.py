"""Formats that ComfyUI has no kernel for, computed here to be compared with those that it has.

All are of weights alone, the input stays in full precision, as their runtimes elsewhere do it. Integers are asymmetric
in groups along the input channels, ``w ≈ (q − z)·s`` with ``s = (max − min) / (2ᵇ − 1)`` and whole q and z, rounded to
nearest: what AWQ's and GPTQ's files hold before their searches. FP8 with a scale a row is ``s = amax / 448``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

E4M3_LARGEST = 448.0
SCALE_BYTES = 2
"""Groups have float16 scales."""


@dataclass(frozen=True)
class Grouped:
    """Integers of ``bits`` with a scale and a zero point for each ``group`` of input channels."""

    title: str
    bits: int
    group: int

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """What float32 rows [R, K] decode to."""
        columns = weight.shape[1]
        groups = math.ceil(columns / self.group)
        blocks = torch.nn.functional.pad(weight, (0, groups * self.group - columns)).reshape(-1, groups, self.group)
        # The range holds zero, which padding adds to the last group anyway.
        low = blocks.amin(dim=-1, keepdim=True).clamp(max=0)
        high = blocks.amax(dim=-1, keepdim=True).clamp(min=0)
        most = 2**self.bits - 1
        scale = ((high - low) / most).half().float()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = (-low / scale).round().clamp(0, most)
        codes = (blocks / scale + zero).round().clamp(0, most)
        return ((codes - zero) * scale).flatten(1)[:, :columns]

    def bytes(self, shape: tuple[int, int]) -> int:
        """Of codes, scales and zero points, both packed."""
        groups = shape[0] * math.ceil(shape[1] / self.group)
        return math.ceil((shape[0] * shape[1] + groups) * self.bits / 8) + groups * SCALE_BYTES


@dataclass(frozen=True)
class PerRow:
    """E4M3 with one float32 scale for each output channel."""

    title: str

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """What float32 rows [R, K] decode to."""
        amax = weight.abs().amax(dim=1, keepdim=True)
        scale = torch.where(amax > 0, amax / E4M3_LARGEST, torch.ones_like(amax))
        return (weight / scale).to(torch.float8_e4m3fn).float() * scale

    def bytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * shape[1] + 4 * shape[0]


SIMULATED: Mapping[str, Grouped | PerRow] = {
    "fp8-row": PerRow("FP8, a scale a row"),
    "int4-g128": Grouped("INT4, groups of 128", 4, 128),
    "int3-g128": Grouped("INT3, groups of 128", 3, 128),
    "int2-g64": Grouped("INT2, groups of 64", 2, 64),
}
"""By the name that ``--formats`` takes."""
