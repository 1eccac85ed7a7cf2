"""The E2M1 grid (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) and rounding to it."""

from __future__ import annotations

import torch

BLOCK = 16
"""Neighbouring weights along the input channels that share one block scale."""
E2M1_MAX = 6.0
E4M3_MAX = 448.0
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def encode(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest E2M1 code, ties to the even code.

    The grid has three steps: 0.5 up to 2, 1 up to 4, 2 up to 6. Rounding to each of the three uniform
    grids gives a candidate code, exact in its own range and too large outside, so the smallest is the
    code. Hardware rounding to even makes the ties right, because a grid point's parity is its code's.

    Args:
        values: float32, any shape, within ±6.

    Returns:
        uint8 codes of the same shape, 0 to 15, sign in bit 3 (also for a negative zero).
    """
    magnitude = values.abs()
    codes = (magnitude * 2).round_()
    codes = torch.minimum(codes, magnitude.round().add_(2))
    codes = torch.minimum(codes, magnitude.mul_(0.5).round_().add_(4))
    sign = (values.view(torch.int32) >> 28) & 8
    return codes.to(torch.uint8) | sign.to(torch.uint8)


def decode(codes: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of codes 0 to 15, in the same shape."""
    grid = torch.tensor(VALUES, dtype=torch.float32, device=codes.device)
    return torch.index_select(grid, 0, codes.reshape(-1).int()).reshape(codes.shape)


def amax_of(weight: torch.Tensor) -> torch.Tensor:
    """Largest magnitude as a scalar of the weight's dtype, without a copy of the weight."""
    low, high = torch.aminmax(weight)
    return torch.maximum(-low, high)


def positive(scale: torch.Tensor) -> torch.Tensor:
    """Make a float32 tensor scale one that can be divided by.

    Zero (all weights are zero) becomes 1, where the kernels would divide zero by zero; what is too small for
    a normal float32 becomes the smallest one, whose products do not vanish.
    """
    smallest = torch.finfo(torch.float32).smallest_normal
    return torch.where(scale > 0, scale.clamp(min=smallest), torch.ones_like(scale))
