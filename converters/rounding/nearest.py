"""Nearest rounding, byte for byte what comfy-kitchen's ``quantize_nvfp4`` writes."""

from __future__ import annotations

import torch

from .e2m1 import E2M1_MAX, E4M3_MAX, amax_of, as_blocks, positive, scaled_codes

HELP = "each block's largest weight falls on 6: what comfy-kitchen's own kernels write, and what LoRAs change least"


def tensor_scale(weight: torch.Tensor) -> torch.Tensor:
    """amax / (448 · 6), computed in the weight's dtype as ComfyUI's layout does, returned as float32."""
    return positive((amax_of(weight) / (E4M3_MAX * E2M1_MAX)).float())


def round_rows(rows: torch.Tensor, tensor_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See the package's docstring for shapes."""
    blocks, amax = as_blocks(rows)
    codes, block_scale, _ = scaled_codes(blocks, amax, tensor_scale, E2M1_MAX)
    return codes.flatten(1), block_scale
