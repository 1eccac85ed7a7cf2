"""Two samplings side by side, step by step: where they part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 1 << 30
"""Bytes that the first sampling's steps may take in RAM. In float32 50 steps of a 2048 x 2048 image (16 channels of
256 x 256) are 0.21 GB, 50 steps of 81 frames of Wan at 1280 x 720 (16 x 21 x 90 x 160) 0.97 GB."""


def relative_rms(reference: Tensor, other: Tensor) -> list[float]:
    """``sqrt(mean((b - a)**2) / mean(a**2))`` of each of B latents ``[B, ...]``: 0 equal, about 1.4 unrelated.

    The reference's own size is the unit, so that latents of any model's scale can be compared. Two zeros are equal.
    """
    a, b = (latent.flatten(1).to("cpu", torch.float64) for latent in (reference, other))
    error, size = (b - a).square().mean(dim=1), a.square().mean(dim=1)
    return torch.where(error == 0, error, (error / size).sqrt()).tolist()


@dataclass(frozen=True)
class Kept:
    """How the first sampling's steps are kept: each as ``dtype``, every ``every``-th one."""

    dtype: torch.dtype
    every: int

    @classmethod
    def within(cls, steps: int, elements: int, limit: int = LIMIT) -> Kept:
        """float32 where all fit, else float16, else as many evenly spaced steps in float16 as fit, at least one."""
        if steps * elements * 4 <= limit:
            return cls(torch.float32, 1)
        return cls(torch.float16, max(1, -(-steps * elements * 2 // limit)) if steps > 1 else 1)


class Trajectory:
    """Keeps one latent for each step of a first sampling, then measures a second one against it.

    Args:
        steps: how many there will be as far as is known, which decides how they are kept.
        limit: bytes of RAM.

    ``errors`` is ``{step: relative_rms of each latent}``. A step's latent is forgotten once it was compared. Both
    latents are rounded to the dtype in which the first was kept (float16 has a step of 0.05 %, -66 dB; equal latents
    stay equal).
    """

    def __init__(self, steps: int, limit: int = LIMIT) -> None:
        self._steps = steps
        self._limit = limit
        self._latents: dict[int, Tensor] = {}
        self.kept: Kept | None = None
        self.errors: dict[int, list[float]] = {}

    def keep(self, step: int, latent: Tensor) -> None:
        """The first sampling's ``latent`` ``[B, ...]`` at this step, on any device; beyond the limit nothing is kept."""
        if self.kept is None:
            self.kept = Kept.within(self._steps, latent.numel(), self._limit)
        taken = (len(self._latents) + 1) * latent.numel() * self.kept.dtype.itemsize
        if step % self.kept.every == 0 and (taken <= self._limit or not self._latents):
            self._latents[step] = latent.to("cpu", self.kept.dtype, copy=True)

    def compare(self, step: int, latent: Tensor) -> None:
        """The second sampling's; steps that the first did not keep are passed over."""
        reference = self._latents.pop(step, None)
        if reference is not None:
            self.errors[step] = relative_rms(reference, latent.to("cpu", reference.dtype))
