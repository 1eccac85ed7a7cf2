"""Sums of real numbers that come out the same in any order: integers on a fixed grid.

A float sum depends on the order of its terms, so merged files would depend on how runs were split. Here
each sampling's sum is rounded once to a multiple of 2**-40 and kept as two integers, high * 2**10 + low *
2**-40 with low in [0, 2**50): adding and carrying is exact, and the pair of a value is unique. The range
is 2**73, the error per sampling 2**-41.
"""

from __future__ import annotations

import torch

from .errors import CalibrationError

LOW_BITS = 50
GRID = 2.0**-40
HIGH = 2.0**10
MAX_HIGH = 1 << 62
LIMIT = HIGH * 2.0**61
"""What one sampling may sum up to; two of them may still be added."""


def to_limbs(values: torch.Tensor) -> torch.Tensor:
    """float64 [...] of any sign to int64 [..., 2] (high, low). Raises CalibrationError from 2**71 on."""
    values = values.to(torch.float64)
    if not bool((values.abs() < LIMIT).all()):
        raise CalibrationError(
            "The inputs of a layer are too large to sum their squares; calibrate with detail scales."
        )
    # Towards zero: a small negative number would lose its last digits beside 2**10.
    high = torch.trunc(values / HIGH)
    low = torch.round((values - high * HIGH) / GRID).to(torch.int64)
    return carried(high.to(torch.int64), low)


def carried(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """The unique pair of each value, int64 [..., 2]."""
    return torch.stack((high + (low >> LOW_BITS), low & ((1 << LOW_BITS) - 1)), dim=-1)


def added(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The exact sum of two int64 [..., 2]. Raises CalibrationError when it leaves the range."""
    if a.numel() and int((a[..., 0].abs() | b[..., 0].abs()).max()) >= MAX_HIGH // 2:
        raise CalibrationError("The sums of these calibrations leave the range that can be kept; merge fewer of them.")
    return carried(a[..., 0] + b[..., 0], a[..., 1] + b[..., 1])


def to_float(limbs: torch.Tensor) -> torch.Tensor:
    """float64 [...] of int64 [..., 2]."""
    return limbs[..., 0].to(torch.float64) * HIGH + limbs[..., 1].to(torch.float64) * GRID
