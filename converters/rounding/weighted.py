"""Block search weighted by the inputs: each block takes the scale whose error the layer's inputs amplify least.

The squared error of a weight in channel k counts E[x_k²] times, which is what it adds to the squared error of
the output as long as channels are not correlated. About half of what GPTQ gains, without its risk when few
inputs were seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import four_over_six, scale_table
from .candidates import Candidate

if TYPE_CHECKING:
    from ...calibration import LayerStatistics

HELP = "block search by the error that a layer's inputs amplify; needs a calibration with detail channels"
NEEDS = "channels"
CANDIDATES: tuple[Candidate, ...] = ()
TAKES_BYTES = True
TRIED = tuple(Candidate(step=step) for step in (0, -2, -1, 1, 2, 3, 4, 5, 6))
LEAST_ROWS = 256
"""Input rows below which a mean square is a guess."""


def tensor_scale(amax: torch.Tensor) -> torch.Tensor:
    """amax / (256 · 6) as float32 scalar: six codes above 256 is 448, the largest."""
    return four_over_six.tensor_scale(amax)


def missing(statistics: LayerStatistics) -> str | None:
    """Why a layer cannot be rounded in this way, in a few words; None when it can."""
    rows = max(
        statistics.channels.rows if statistics.channels else 0, statistics.curvature.rows if statistics.curvature else 0
    )
    if not rows:
        return "calibrated without detail channels"
    return f"{rows} input rows seen, {LEAST_ROWS} are needed" if rows < LEAST_ROWS else None


def rounder(
    tensor_scale: torch.Tensor, statistics: LayerStatistics, values: torch.Tensor | None = None
) -> scale_table.Rounder:
    """A function like ``candidates.round_rows`` for one layer; see ``Informed``."""
    weight = mean_square(statistics).float()
    # Channels that never carried anything still get sensible codes.
    weight = weight.clamp(min=float(weight.mean()) * 1e-6) if float(weight.sum()) > 0 else torch.ones_like(weight)
    weight = torch.nn.functional.pad(weight, (0, -len(weight) % 16)).to(tensor_scale.device)
    if values is not None:
        return scale_table.byte_rounder(values, tensor_scale, TRIED, weight)
    return lambda rows: scale_table.round_rows(rows, tensor_scale, TRIED, weight)


def mean_square(statistics: LayerStatistics) -> torch.Tensor:
    """E[x²] of each input channel: float64 [K]."""
    if statistics.channels is not None:
        return statistics.channels.mean_square()
    assert statistics.curvature is not None
    return statistics.curvature.mean_square()
