"""Rounding methods that only choose where on the grid each block's largest magnitude falls.

``nearest`` has one such target (6), four-over-six two (6 and 4). With several, each block takes the
one with the smaller squared error; a tie goes to the first.
"""

from __future__ import annotations

import torch

from .e2m1 import BLOCK, E2M1_MAX, E4M3_MAX, decode, encode


def round_rows(
    rows: torch.Tensor, tensor_scale: torch.Tensor, targets: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows [R, K] of any float dtype, K a multiple of 16.

    Returns:
        E2M1 codes uint8 [R, K] and block scales float8_e4m3fn [R, K/16].
    """
    blocks = rows.reshape(rows.shape[0], -1, BLOCK)
    amax = blocks.abs().amax(dim=-1).float()
    blocks = blocks.float()
    codes, scale, total = quantize(blocks, amax, tensor_scale, targets[0])
    if len(targets) > 1:
        error = squared_error(blocks, codes, total)
    for target in targets[1:]:
        other_codes, other_scale, other_total = quantize(blocks, amax, tensor_scale, target)
        other_error = squared_error(blocks, other_codes, other_total)
        better = (other_error - error).sum(dim=-1) < 0
        codes = torch.where(better.unsqueeze(-1), other_codes, codes)
        error = torch.where(better.unsqueeze(-1), other_error, error)
        # torch.where has no float8 kernel on every device; the bytes are what is chosen.
        chosen = torch.where(better, other_scale.view(torch.uint8), scale.view(torch.uint8))
        scale = chosen.view(torch.float8_e4m3fn)
    return codes.flatten(1), scale


def quantize(
    blocks: torch.Tensor, amax: torch.Tensor, tensor_scale: torch.Tensor, target: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize blocks so that a magnitude of ``amax`` falls on ``target``.

    The order of operations is that of comfy-kitchen's kernels, so that target 6 gives their bytes:
    ``block_scale = e4m3(min(amax / target / tensor_scale, 448))``, then ``x / (tensor_scale · block_scale)``.

    Args:
        blocks: float32 [R, B, 16].
        amax: float32 [R, B].
        tensor_scale: float32 scalar.
        target: grid point, 6 or 4.

    Returns:
        codes uint8 [R, B, 16], block scales float8_e4m3fn [R, B], total scales float32 [R, B].
    """
    scale = (amax / target / tensor_scale).clamp_(max=E4M3_MAX).to(torch.float8_e4m3fn)
    total = tensor_scale * scale.float()
    zero = total == 0
    codes = encode((blocks / total.masked_fill(zero, 1.0).unsqueeze(-1)).clamp_(-E2M1_MAX, E2M1_MAX))
    return codes.masked_fill_(zero.unsqueeze(-1), 0), scale, total


def squared_error(blocks: torch.Tensor, codes: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Squared difference of every weight, float32 [R, B, 16]."""
    return decode(codes).mul_(total.unsqueeze(-1)).sub_(blocks).square_()
