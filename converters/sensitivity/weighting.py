"""How rows that were seen at different noise count in a mean over rows.

A calibration's reservoir keeps rows by their content alone: which noise they come from follows from how many
different rows there were, not from how much each part of the schedule matters to the picture. A sampler adds up
velocity times step, ``x₀ = x₁ + Σ v(σᵢ)·Δσᵢ``, so an error of the velocity that is alike at neighbouring steps counts
by the length of schedule over which it is made, however many steps lie there: that is ``path``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ...calibration import SCHEDULE_BINS
from ..errors import PlanError

if TYPE_CHECKING:
    from ...calibration import Calibration
    from ...calibration.reservoir import Reservoir

_Bins = Callable[[torch.Tensor], torch.Tensor]
"""From evaluations of the model in each part of the schedule, float64 [16], to what each part counts."""


def _path(evaluations: torch.Tensor) -> torch.Tensor:
    return (evaluations > 0).double()


def _early(evaluations: torch.Tensor) -> torch.Tensor:
    return _path(evaluations) * (torch.arange(SCHEDULE_BINS, dtype=torch.float64) + 0.5)


WEIGHTINGS: Mapping[str, str] = {
    "uniform": "every kept row counts the same",
    "schedule": "each sixteenth of the noise range counts as often as the calibrated samplings evaluated the model in it",
    "path": "each sixteenth of the noise range that was visited counts the same, as it does for the sampler's sum",
    "early": "as path, times the noise level: where the composition is made",
}
DEFAULT_WEIGHTING = "uniform"
"""On two trained models the weighting moves no rank correlation by more than 0.02 (``benchmarks/sensitivity_check.py``)."""
_OF_BINS: Mapping[str, _Bins] = {"schedule": lambda evaluations: evaluations, "path": _path, "early": _early}


def check_weighting(name: str) -> None:
    """Raises PlanError when there is no such weighting."""
    if name not in WEIGHTINGS:
        raise PlanError(f"There is no weighting {name[:40]!r}; choose one of {', '.join(WEIGHTINGS)}.")


def row_weights(name: str, reservoir: Reservoir, calibration: Calibration) -> torch.Tensor:
    """float64 [R], summing to 1: what each row of a reservoir counts.

    The rows of one part of the schedule share what it counts. Where no row comes from a part that counts, all
    rows count the same.
    """
    bins = reservoir.noise_bins()
    uniform = torch.full((len(bins),), 1.0 / max(1, len(bins)), dtype=torch.float64)
    if name == "uniform":
        return uniform
    counted = _OF_BINS[name](calibration.schedule.sum(dim=0).double())
    weights = (counted / torch.bincount(bins, minlength=SCHEDULE_BINS).clamp(min=1))[bins]
    total = weights.sum()
    return weights / total if float(total) > 0 else uniform
