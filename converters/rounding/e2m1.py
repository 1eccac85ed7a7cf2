"""The E2M1 grid (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) and rounding to it."""

from __future__ import annotations

import torch

from .scratch import scratch

BLOCK = 16
"""Neighbouring weights along the input channels that share one block scale."""
E2M1_MAX = 6.0
E4M3_MAX = 448.0
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


EXPONENT = 0x7F800000
_ONE_IN_THE_LAST_PLACE = 22 << 23


def _anchor(magnitude: torch.Tensor) -> torch.Tensor:
    """2^(22 + E) with E = floor(log2(max(m, 1))), as float32, in scratch memory.

    Its last place is worth 2^(E − 1), which is E2M1's step around m (0.5 below 2, 1 below 4, 2 above). So
    adding it rounds m to the grid, ties to even as the hardware does, and leaves the number of steps in
    the last bits.
    """
    anchor = scratch("anchor", magnitude.shape, torch.float32, magnitude.device)
    bits = torch.clamp(magnitude, min=1.0, out=anchor).view(torch.int32)
    bits.bitwise_and_(EXPONENT).add_(_ONE_IN_THE_LAST_PLACE)
    return anchor


def round_magnitudes(magnitudes: torch.Tensor) -> torch.Tensor:
    """Round float32 magnitudes of at most 6 to the nearest of the grid, ties to the even code, in place."""
    anchor = _anchor(magnitudes)
    return magnitudes.add_(anchor).sub_(anchor)


def encode(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest E2M1 code, ties to the even code.

    Args:
        values: float32, any shape, within ±6; overwritten.

    Returns:
        uint8 codes of the same shape, 0 to 15, sign in bit 3 (also for a negative zero).
    """
    sign = scratch("sign", values.shape, torch.int32, values.device)
    torch.bitwise_right_shift(values.view(torch.int32), 28, out=sign).bitwise_and_(8)
    anchor = _anchor(values.abs_())
    # m is k steps of 2^(E − 1), and its code k + 2 E: a grid point's parity is its code's.
    codes = values.add_(anchor).view(torch.int32).bitwise_and_(7)
    codes += anchor.view(torch.int32).sub_(127 + 22 << 23).bitwise_right_shift_(22)
    codes |= sign
    return codes.to(torch.uint8)


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, uint8 [..., K/2] of contiguous codes uint8 [..., K]: the even column in the high nibble."""
    pairs = codes.view(torch.int16)  # the even column is the low byte
    return (pairs << 4).bitwise_or_(pairs >> 8).to(torch.uint8)


def decode(codes: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of codes 0 to 15, in the same shape."""
    grid = torch.tensor(VALUES, dtype=torch.float32, device=codes.device)
    return torch.index_select(grid, 0, codes.reshape(-1).int()).reshape(codes.shape)


def largest_of(magnitudes: torch.Tensor) -> torch.Tensor:
    """The largest of each row [n, 16] of contiguous float32 that are not negative: [n].

    Such floats order like their bits, which a CPU compares three times as fast.
    """
    return magnitudes.view(torch.int32).amax(dim=1).view(torch.float32)


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
