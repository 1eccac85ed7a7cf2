"""Rounding methods that choose each block's scale from a few candidates by squared error.

``nearest`` has one candidate: the block's largest magnitude falls on 6. Four-over-six has two (6 and 4),
the block search the neighbouring E4M3 codes. Each block takes the candidate with the smallest squared
error; a tie goes to the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .e2m1 import BLOCK, E2M1_MAX, E4M3_MAX, decode, encode

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
    blocks = rows.reshape(rows.shape[0], -1, BLOCK)
    amax = blocks.abs().amax(dim=-1).float()
    blocks = blocks.float()
    codes, scale, total = quantize(blocks, amax, tensor_scale, candidates[0])
    if len(candidates) > 1:
        first = squared_error(blocks, codes, total)
        least = torch.zeros_like(amax)
    for candidate in candidates[1:]:
        other_codes, other_scale, other_total = quantize(blocks, amax, tensor_scale, candidate)
        gain = squared_error(blocks, other_codes, other_total).sub_(first)
        if channel_weight is not None:
            gain *= channel_weight.reshape(-1, BLOCK)
        pairs = gain.reshape(*amax.shape, BLOCK // 2, 2)
        gain = sum_of_pairs((pairs[..., 0] + pairs[..., 1]).movedim(-1, 0))
        better = gain < least
        least = torch.minimum(least, gain)
        codes = torch.where(better.unsqueeze(-1), other_codes, codes)
        # torch.where has no float8 kernel on every device; the bytes are what is chosen.
        chosen = torch.where(better, other_scale.view(torch.uint8), scale.view(torch.uint8))
        scale = chosen.view(torch.float8_e4m3fn)
    return pack(codes), scale


def pack(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the first in the high nibble: uint8 [..., K] to uint8 [..., K/2]."""
    # A pair of neighbouring codes read as one little-endian int16: the first in the low byte.
    pairs = codes.view(torch.int16)
    return ((pairs << 4) | (pairs >> 8)).to(torch.uint8)


def quantize(
    blocks: torch.Tensor, amax: torch.Tensor, tensor_scale: torch.Tensor, candidate: Candidate
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize blocks with one candidate's scales.

    The order of operations is that of comfy-kitchen's kernels, so that target 6 gives their bytes:
    ``block_scale = e4m3(min(amax / target / tensor_scale, 448))``, then ``x / (tensor_scale · block_scale)``.

    Args:
        blocks: float32 [R, B, 16].
        amax: float32 [R, B].
        tensor_scale: float32 scalar.
        candidate: which scale.

    Returns:
        codes uint8 [R, B, 16], block scales float8_e4m3fn [R, B], total scales float32 [R, B].
    """
    scale = candidate.scale(amax, tensor_scale)
    total = tensor_scale * scale.float()
    zero = total == 0
    codes = encode((blocks / total.masked_fill(zero, 1.0).unsqueeze(-1)).clamp_(-E2M1_MAX, E2M1_MAX))
    return codes.masked_fill_(zero.unsqueeze(-1), 0), scale, total


def squared_error(blocks: torch.Tensor, codes: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Squared difference of every weight, float32 [R, B, 16]."""
    return decode(codes).mul_(total.unsqueeze(-1)).sub_(blocks).square_()


def pair_sums(values: torch.Tensor) -> torch.Tensor:
    """Sums of every two of V values: float32 [R, V] to [R, V, V]."""
    return values.unsqueeze(1) + values.unsqueeze(2)


def sum_of_pairs(pairs: torch.Tensor) -> torch.Tensor:
    """Sum over the first dimension of eight, from front to back.

    The order is written out because a choice between two candidates may hang on the last bit, and look-up
    and arithmetic, CPU and GPU must make the same.
    """
    total = pairs[0] + pairs[1]
    for pair in pairs[2:]:
        total = total + pair
    return total
