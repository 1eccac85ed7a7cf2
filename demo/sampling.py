"""Sample pictures from a demo model: Euler steps along the flow, without guidance.

The schedule is that of ComfyUI's ``simple`` scheduler (there rounded to thousandths); with the ``euler`` sampler
and cfg 1 both walk the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from .conditioning import class_conditioning
from .data import LATENT
from .model import LATENT_CHANNELS

STEPS = 20
"""Twenty steps of a straight schedule put at least one evaluation into each sixteenth of the noise range."""


def schedule(steps: int, shift: float = 1.0) -> Tensor:
    """Noise levels float32 [steps + 1] from 1 down to 0: the straight line t, or ``s t / (1 + (s - 1) t)``.

    A ``shift`` s above 1 spends more steps where there is much noise (Esser et al. 2024, "Scaling Rectified Flow
    Transformers", section 5.3.2).
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, got {steps}")
    line = torch.linspace(1.0, 0.0, steps + 1)
    return shift * line / (1.0 + (shift - 1.0) * line)


def start_noise(seeds: Sequence[int], size: int = LATENT) -> Tensor:
    """Noise [B, 16, size, size], one generator per seed: a picture does not depend on its batch."""
    return torch.stack(
        [torch.randn(LATENT_CHANNELS, size, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


class Velocity(Protocol):
    """A demo model: its velocity at (x, sigma, context, pooled), and the shift of its schedule."""

    shift: float

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor, /) -> Tensor: ...


def sample(
    model: Velocity,
    labels: Sequence[int],
    seeds: Sequence[int],
    steps: int = STEPS,
    observing: Callable[[float], AbstractContextManager[object]] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents [B, 16, 8, 8] of one digit per (label, seed).

    Args:
        observing: called with the noise level of every model evaluation; the evaluation runs inside the
            context that it returns (a calibration's ``Collector.observing``).
        on_step: called with (steps done, steps) after each step.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"one seed per label: got {len(labels)} labels and {len(seeds)} seeds")
    context, pooled = class_conditioning(labels)
    sigmas = schedule(steps, model.shift)
    x = start_noise(seeds)
    with torch.inference_mode():
        for step in range(steps):
            level = float(sigmas[step])
            with observing(level) if observing else nullcontext():
                velocity = model(x, sigmas[step].expand(len(labels)), context, pooled)
            x = x + (sigmas[step + 1] - sigmas[step]) * velocity
            if on_step:
                on_step(step + 1, steps)
    return x.clone()
