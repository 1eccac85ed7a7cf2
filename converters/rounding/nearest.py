"""Nearest rounding, byte for byte what comfy-kitchen's ``quantize_nvfp4`` writes."""

from __future__ import annotations

import torch

from .candidates import Candidate
from .e2m1 import E2M1_MAX, E4M3_MAX, positive

HELP = "each block's largest weight falls on 6: what comfy-kitchen's own kernels write, and what LoRAs change least"

NEEDS = "scales"

CANDIDATES: tuple[Candidate, ...] = (Candidate(),)


def tensor_scale(amax: torch.Tensor) -> torch.Tensor:
    """amax / (448 · 6), computed in the weight's dtype as ComfyUI's layout does, returned as float32."""
    return positive((amax / (E4M3_MAX * E2M1_MAX)).float())
