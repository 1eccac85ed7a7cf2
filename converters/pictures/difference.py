"""Where two pictures differ, as a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .pairs import pairs

GAINS = (1, 2, 5, 10, 20, 50, 100)
SHOWN = 0.999


def absolute_difference(first: Tensor, second: Tensor, gain: float) -> Tensor:
    """``gain * |b - a|`` cut to 0..1, float32 ``[B, H, W, C]``: black where nothing differs."""
    return _mapped(first, second, lambda change: (gain * change).abs())


def signed_difference(first: Tensor, second: Tensor, gain: float) -> Tensor:
    """``1/2 + gain * (b - a) / 2`` cut to 0..1, float32 ``[B, H, W, C]``: grey where nothing differs, brighter where
    the second picture is brighter."""
    return _mapped(first, second, lambda change: 0.5 + gain * change / 2)


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


def _mapped(first: Tensor, second: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    maps = [how(other - one).clamp(0.0, 1.0).movedim(0, -1).float() for one, other in pairs(first, second)]
    return torch.stack(maps)
