"""Where two pictures differ, as a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from .pairs import pairs

GAINS = (1, 2, 5, 10, 20, 50, 100)
SHOWN = 0.999


def absolute_difference(first: Tensor, second: Tensor, gain: float) -> Tensor:
    """``gain * |b - a|`` cut to 0..1, float32 ``[B, H, W, C]``: black where nothing differs."""
    return torch.stack(
        [(gain * (other - one)).abs().clamp(max=1.0).movedim(0, -1).float() for one, other in pairs(first, second)]
    )


def fitting_gain(first: Tensor, second: Tensor) -> int:
    """The largest of :data:`GAINS` that cuts off no more than a thousandth of any picture's differences.

    Round numbers, so that a caption can say it and two sheets can be compared.
    """
    limits = [float(_quantile((other - one).abs().flatten())) for one, other in pairs(first, second)]
    most = max(limits, default=0.0)
    return next((gain for gain in reversed(GAINS) if gain * most <= 1.0), GAINS[0])


def _quantile(values: Tensor) -> Tensor:
    rank = max(1, min(values.numel(), round(SHOWN * values.numel())))
    return values.kthvalue(rank).values
