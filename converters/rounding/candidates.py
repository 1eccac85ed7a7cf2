"""Rounding methods that choose each block's scale from a few candidates by squared error.

``nearest`` has one candidate: the block's largest magnitude falls on 6. Four-over-six has two (6 and 4),
the block search the neighbouring E4M3 codes. Each block takes the candidate with the smallest squared
error; a tie goes to the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .e2m1 import BLOCK, E2M1_MAX, E4M3_MAX, encode, round_magnitudes
from .scratch import scratch

LARGEST_CODE = 126
"""E4M3's code of 448; 127 is NaN."""


@dataclass(frozen=True)
class Candidate:
    """A block scale to try.

    ``target``: the grid point on which the block's largest magnitude falls. ``step``: by how many E4M3
    codes the scale then moves up (coarser grid, more room) or down (finer grid, the largest are clipped).
    """

    target: float = E2M1_MAX
    step: int = 0

    def scale(self, amax: torch.Tensor, tensor_scale: torch.Tensor) -> torch.Tensor:
        """Block scales float8_e4m3fn for blocks with largest magnitudes ``amax``, float32 of any shape."""
        scale = (amax / self.target / tensor_scale).clamp_(max=E4M3_MAX).to(torch.float8_e4m3fn)
        return neighbour(scale, self.step) if self.step else scale


def neighbour(scale: torch.Tensor, step: int) -> torch.Tensor:
    """Block scales ``step`` E4M3 codes further up or down, within the codes of positive numbers.

    A block whose scale is zero holds nothing but zeros, and stays so.
    """
    code = scale.view(torch.uint8).int()
    moved = (code + step).clamp_(1, LARGEST_CODE).to(torch.uint8)
    return torch.where(code > 0, moved, 0).view(torch.float8_e4m3fn)


def round_rows(
    rows: torch.Tensor,
    tensor_scale: torch.Tensor,
    candidates: tuple[Candidate, ...],
    channel_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows [R, K] of any float dtype, K a multiple of 16.

    Args:
        channel_weight: what the squared error of each channel counts, float32 [K]; None for 1.

    Returns:
        Packed E2M1 codes uint8 [R, K/16, 8], the even column in the high nibble, and block scales
        float8_e4m3fn [R, K/16].
    """
    # The sixteen weights of a block lie one below the other: what is done block by block runs along memory.
    stored = rows.reshape(rows.shape[0], -1, BLOCK).permute(2, 0, 1)
    blocks = scratch("blocks", stored.shape, torch.float32, stored.device).copy_(stored)
    magnitudes = torch.abs(blocks, out=scratch("magnitudes", blocks.shape, torch.float32, blocks.device))
    amax = magnitudes.amax(dim=0)
    scale, total = scales(amax, tensor_scale, candidates[0])
    if len(candidates) > 1:
        first = squared_error(magnitudes, total, "first")
        least = torch.zeros_like(amax)
    for candidate in candidates[1:]:
        other_scale, other_total = scales(amax, tensor_scale, candidate)
        gain = squared_error(magnitudes, other_total, "other").sub_(first)
        if channel_weight is not None:
            gain *= channel_weight.reshape(-1, BLOCK).T.unsqueeze(1)
        sums = sum_of_pairs(gain[0::2].add_(gain[1::2]))
        better = sums < least
        least = torch.minimum(least, sums)
        # torch.where has no float8 kernel on every device; the bytes are what is chosen.
        scale = torch.where(better, other_scale.view(torch.uint8), scale.view(torch.uint8)).view(torch.float8_e4m3fn)
        total = torch.where(better, other_total, total)
    codes = codes_of(blocks, total)
    return (codes[0::2] << 4).bitwise_or_(codes[1::2]).permute(1, 2, 0), scale


def scales(amax: torch.Tensor, tensor_scale: torch.Tensor, candidate: Candidate) -> tuple[torch.Tensor, torch.Tensor]:
    """Block scales float8_e4m3fn and what codes are multiplied by in all, float32, both of amax's shape.

    The order of operations is that of comfy-kitchen's kernels, so that target 6 gives their bytes:
    ``block_scale = e4m3(min(amax / target / tensor_scale, 448))``, then ``x / (tensor_scale · block_scale)``.
    """
    scale = candidate.scale(amax, tensor_scale)
    return scale, tensor_scale * scale.float()


def codes_of(blocks: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """E2M1 codes uint8 [16, ...] of float32 weights [16, ...] with total scales [...]; 0 where the scale is 0."""
    zero = total == 0
    codes = encode(_divided(blocks, total, "codes").clamp_(-E2M1_MAX, E2M1_MAX))
    return codes.masked_fill_(zero, 0) if bool(zero.any()) else codes


def squared_error(magnitudes: torch.Tensor, total: torch.Tensor, name: str) -> torch.Tensor:
    """Squared difference that rounding with these total scales makes, float32 [16, ...]; signs do not matter.

    The result is scratch memory of this name.
    """
    rounded = round_magnitudes(_divided(magnitudes, total, name).clamp_(max=E2M1_MAX))
    return rounded.mul_(total).sub_(magnitudes).square_()


def _divided(blocks: torch.Tensor, total: torch.Tensor, name: str) -> torch.Tensor:
    divisor = total.masked_fill(total == 0, 1.0)
    return torch.div(blocks, divisor, out=scratch(name, blocks.shape, torch.float32, blocks.device))


def sum_of_pairs(pairs: torch.Tensor) -> torch.Tensor:
    """Sum over the first dimension of eight, from front to back.

    The order is written out because a choice between two candidates may hang on the last bit, and look-up
    and arithmetic, CPU and GPU must make the same.
    """
    total = pairs[0] + pairs[1]
    for pair in pairs[2:]:
        total = total + pair
    return total
