"""Sample pictures from the demo model: Euler steps along the flow, without guidance.

The schedule is ComfyUI's ``simple`` scheduler for Flux schnell (shift 1.0), which for N steps is the
straight line 1, (N-1)/N, ..., 0 (there rounded to thousandths); with the ``euler`` sampler and cfg 1 both walk
the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from .conditioning import class_conditioning
from .data import LATENT
from .model import LATENT_CHANNELS

STEPS = 20
"""Twenty steps of a straight schedule put at least one evaluation into each sixteenth of the noise range."""


def schedule(steps: int) -> Tensor:
    """Noise levels float32 [steps + 1] from 1 down to 0."""
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, got {steps}")
    return torch.linspace(1.0, 0.0, steps + 1)


def start_noise(seeds: Sequence[int], size: int = LATENT) -> Tensor:
    """Noise [B, 16, size, size], one generator per seed: a picture does not depend on its batch."""
    return torch.stack(
        [torch.randn(LATENT_CHANNELS, size, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def sample(
    model: nn.Module,
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
    sigmas = schedule(steps)
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
