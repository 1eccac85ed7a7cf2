"""Block search without clipping: each block tries seven scales from the nearest one upwards.

The finer of the E4M3 codes next to each other differ by 6 to 12 %, so seven of them reach up to 1.75 times
the nearest one. Moving down as well finds a smaller squared error (``block-search-mse``), but by clipping
the largest weights, which shrinks a layer's output: its pictures are no closer, although its weights are.

It is what ``auto`` takes where nothing is known of a layer's inputs.
"""

from __future__ import annotations

import torch

from . import four_over_six
from .candidates import Candidate

HELP = "each block tries the seven scales from the nearest upwards and takes the closest; clips no weight"

NEEDS = "scales"

CANDIDATES: tuple[Candidate, ...] = tuple(Candidate(step=step) for step in range(7))


def tensor_scale(amax: torch.Tensor) -> torch.Tensor:
    """amax / (256 · 6) as float32 scalar: six codes above 256 is 448, the largest."""
    return four_over_six.tensor_scale(amax)
