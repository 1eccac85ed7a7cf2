"""Scales that a block may choose from, and rounding to one of them.

``nearest`` has one candidate: the block's largest magnitude falls on 6. Four-over-six has two (6 and 4),
the block search the neighbouring E4M3 codes. Each block takes the candidate with the smallest squared
error (``scale_table``); a tie goes to the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .e2m1 import BLOCK, E2M1_MAX, E4M3_MAX, EXPONENT, encode, largest_of, packed
from .scratch import scratch

LARGEST_CODE = 126
"""E4M3's code of 448; 127 is NaN."""
SMALLEST_NORMAL = 2.0**-6


@dataclass(frozen=True)
class Candidate:
    """A block scale to try.

    ``target``: the grid point on which the block's largest magnitude falls. ``step``: by how many E4M3
    codes the scale then moves up (coarser grid, more room) or down (finer grid, the largest are clipped).
    """

    target: float = E2M1_MAX
    step: int = 0

    def scale(self, amax: torch.Tensor, tensor_scale: torch.Tensor) -> torch.Tensor:
        """Block scales for blocks with largest magnitudes ``amax``: float32 of any shape, values that E4M3 has."""
        scale = on_e4m3((amax / self.target / tensor_scale).clamp_(max=E4M3_MAX))
        return neighbour(scale.to(torch.float8_e4m3fn), self.step).float() if self.step else scale


def on_e4m3(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values of 0 to 448 to the nearest that E4M3 has, ties to the even code, in place.

    As ``e2m1.round_magnitudes`` does, with steps of 2^(E − 3) from 2^-6 on. Torch's own conversion takes ten times as
    long on a CPU.
    """
    power = values.clamp(min=SMALLEST_NORMAL)
    power.view(torch.int32).bitwise_and_(EXPONENT)
    return values.add_(power, alpha=2.0**20).sub_(power, alpha=2.0**20)


def neighbour(scale: torch.Tensor, step: int) -> torch.Tensor:
    """Block scales ``step`` E4M3 codes further up or down, within the codes of positive numbers.

    A block whose scale is zero holds nothing but zeros, and stays so.
    """
    code = scale.view(torch.uint8).int()
    moved = (code + step).clamp_(1, LARGEST_CODE).to(torch.uint8)
    return torch.where(code > 0, moved, 0).view(torch.float8_e4m3fn)


def round_rows(
    rows: torch.Tensor, tensor_scale: torch.Tensor, candidate: Candidate
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows [R, K] of any float dtype, K a multiple of 16, with one scale for each block.

    Returns:
        Packed E2M1 codes uint8 [R, K/16, 8], the even column in the high nibble, and block scales
        float8_e4m3fn [R, K/16].
    """
    blocks = scratch("blocks", (rows.numel() // BLOCK, BLOCK), torch.float32, rows.device)
    blocks.copy_(rows.reshape(-1, BLOCK))
    magnitudes = torch.abs(blocks, out=scratch("magnitudes", blocks.shape, torch.float32, blocks.device))
    scale, total = scales(largest_of(magnitudes), tensor_scale, candidate)
    codes = packed(codes_of(blocks, total.unsqueeze(1)))
    stored = scale.to(torch.float8_e4m3fn)
    return codes.view(len(rows), -1, BLOCK // 2), stored.view(len(rows), -1)


def scales(amax: torch.Tensor, tensor_scale: torch.Tensor, candidate: Candidate) -> tuple[torch.Tensor, torch.Tensor]:
    """Block scales, which E4M3 has, and what codes are multiplied by in all: float32, both of amax's shape.

    The order of operations is that of comfy-kitchen's kernels, so that target 6 gives their bytes:
    ``block_scale = e4m3(min(amax / target / tensor_scale, 448))``, then ``x / (tensor_scale · block_scale)``.
    """
    scale = candidate.scale(amax, tensor_scale)
    return scale, tensor_scale * scale


def divisor(total: torch.Tensor) -> torch.Tensor:
    """Total scales to divide by: 1 in the place of 0. A CPU looks for zeros first, which are rare; a GPU would wait."""
    return total if _all_positive(total) else total.masked_fill(total == 0, 1.0)


def _all_positive(total: torch.Tensor) -> bool:
    return not total.is_cuda and total.numel() > 0 and float(total.amin()) > 0


def codes_of(blocks: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """E2M1 codes uint8 of float32 weights with total scales that broadcast to their shape; 0 where the scale is 0."""
    exact = scratch("codes", blocks.shape, torch.float32, blocks.device)
    codes = encode(torch.div(blocks, divisor(total), out=exact).clamp_(-E2M1_MAX, E2M1_MAX))
    return codes if _all_positive(total) else codes.masked_fill_(total == 0, 0)
