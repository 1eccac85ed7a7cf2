"""The E2M1 grid (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) and rounding to it."""

from __future__ import annotations

import torch

BLOCK = 16
"""Neighbouring weights along the input channels that share one block scale."""
E2M1_MAX = 6.0
E4M3_MAX = 448.0
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)

_MANTISSA_DROP = 22
"""float32 has 23 mantissa bits, E2M1 has one."""
_EXPONENT_SHIFT = 252
"""Code of 1.0 in E2M1 is 2; the top bits of float32 1.0 shifted by 22 are 254."""


def encode(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest E2M1 code, ties to the even code, beyond ±6 to ±6.

    Below 1 the grid is uniform with step 0.5, so ``round(2x)`` is the code. From 1 on the grid is
    logarithmic with one mantissa bit: the float's own bits are rounded at bit 22.

    Args:
        values: float32, any shape, finite.

    Returns:
        uint8 codes of the same shape, 0 to 15, sign in bit 3 (also for a negative zero).
    """
    bits = values.view(torch.int32)
    magnitude = values.abs()
    normal = magnitude.view(torch.int32)
    normal = (normal + 0x1FFFFF + ((normal >> _MANTISSA_DROP) & 1)) >> _MANTISSA_DROP
    small = torch.round(magnitude * 2).to(torch.int32)
    codes = torch.where(magnitude < 1, small, normal - _EXPONENT_SHIFT).clamp_(max=7)
    return (codes | ((bits >> 28) & 8)).to(torch.uint8)


def decode(codes: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of codes 0 to 15."""
    return torch.tensor(VALUES, dtype=torch.float32, device=codes.device)[codes.int()]


def scaled_codes(
    blocks: torch.Tensor, block_amax: torch.Tensor, tensor_scale: torch.Tensor, target: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize blocks so that their largest magnitude falls on ``target``.

    The order of operations is that of comfy-kitchen's kernels, so that ``target=6`` gives their bytes:
    ``block_scale = e4m3(min(amax / target / tensor_scale, 448))``, then ``x / (tensor_scale · block_scale)``.

    Args:
        blocks: float32 [R, B, 16].
        block_amax: float32 [R, B].
        tensor_scale: float32 scalar.
        target: the grid point for the block's amax, 6 or 4.

    Returns:
        codes uint8 [R, B, 16], block scales float8_e4m3fn [R, B], total scales float32 [R, B].
    """
    block_scale = (block_amax / target / tensor_scale).clamp(max=E4M3_MAX).to(torch.float8_e4m3fn)
    total = tensor_scale * block_scale.float()
    zero = total == 0
    divisor = torch.where(zero, torch.ones_like(total), total).unsqueeze(-1)
    scaled = torch.where(zero.unsqueeze(-1), torch.zeros_like(blocks), blocks / divisor)
    return encode(scaled.clamp_(-E2M1_MAX, E2M1_MAX)), block_scale, total


def as_blocks(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows [R, K] as float32 blocks [R, K/16, 16] and the float32 amax of each block."""
    blocks = rows.reshape(rows.shape[0], -1, BLOCK)
    return blocks.float(), blocks.abs().amax(dim=-1).float()


def amax_of(weight: torch.Tensor) -> torch.Tensor:
    """Largest magnitude as a scalar of the weight's dtype, without a copy of the weight."""
    low, high = torch.aminmax(weight)
    return torch.maximum(-low, high)


def positive(scale: torch.Tensor) -> torch.Tensor:
    """Replace a zero tensor scale (all weights zero) by 1, where the kernels would divide zero by zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
