"""How sure a mean is: confidence intervals by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of ``count`` values and half the width of its confidence interval, in the values' unit.

    The half width of a single value is infinite: nothing is known of its spread.
    """

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean and ``t(n - 1) * s / sqrt(n)``, s the sample's standard deviation.

    The values must be independent of each other: count seeds or prompts, not the pictures of one seed.

    Raises:
        ValueError: no values, or one is not finite (PSNR of equal pictures is infinite: count those apart).
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"a mean needs finite values, got {list(values)[:8]}")
    count = len(values)
    mean = statistics.fmean(values)
    if count == 1:
        return Interval(mean, math.inf, 1)
    return Interval(mean, student_t(count - 1, confidence) * statistics.stdev(values) / math.sqrt(count), count)


def student_t(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t: P(-t < T < t) = ``confidence``, to 1e-9 of itself.

    For whole degrees of freedom the probability is a finite sum (Abramowitz & Stegun 26.7.3 and 26.7.4), which is
    inverted by bisection.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(-t < T < t)."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return (theta + sine * total) * 2 / math.pi if odd else sine * total
