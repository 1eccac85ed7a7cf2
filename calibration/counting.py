"""Counting on any device, exactly and without waiting for it."""

from __future__ import annotations

import math

import torch

BLOCK = 16
"""Neighbouring channels that share one NVFP4 block scale."""
_COPIES = 1 << 17


def histogram(raw: torch.Tensor, size: int) -> torch.Tensor:
    """Occurrences of 0 .. size - 1 in an integer [N]: int64 [size]. Exact and deterministic on every device.

    bincount is the fastest on CPU but reads its result's length back on CUDA, so integer atomics are used
    there. Activations crowd into a few dozen bins, and atomics on one address take turns; neighbouring
    values therefore add to different copies of the histogram, which are summed at the end.
    """
    if raw.device.type == "cpu":
        return torch.bincount(raw, minlength=size)
    return histogram_by_atomics(raw, size)


def histogram_by_atomics(raw: torch.Tensor, size: int) -> torch.Tensor:
    """The same without waiting for the device."""
    copies = math.gcd(raw.numel(), max(1, _COPIES // size))
    index = raw.to(torch.int64).reshape(-1, copies) + torch.arange(0, copies * size, size, device=raw.device)
    counts = torch.zeros(copies * size, dtype=torch.int64, device=raw.device)
    counts.scatter_add_(0, index.flatten(), torch.ones((), dtype=torch.int64, device=raw.device).expand(raw.numel()))
    return counts.view(copies, size).sum(0)


def block_amax(bits: torch.Tensor) -> torch.Tensor:
    """Largest of each 16 neighbouring columns of int [R, K], a ragged tail being a block: int [R, ceil(K/16)]."""
    whole = bits.shape[1] // BLOCK * BLOCK
    parts = []
    if whole:
        parts.append(bits[:, :whole].reshape(len(bits), -1, BLOCK).amax(-1))
    if whole < bits.shape[1]:
        parts.append(bits[:, whole:].amax(-1, keepdim=True))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
