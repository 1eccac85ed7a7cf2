"""Logarithmic histograms of magnitudes, read off a float's bit pattern.

A binary float is its own logarithmic bin number: the exponent and the first three mantissa bits, taken
together as an integer, count eighths of an octave. No logarithm, no search and no rounding is involved,
so one value falls into one bin whatever its dtype, and merging histograms is integer addition: the
result does not depend on how a run was split.

Eight bins per octave bound the error of a percentile by 9/8 (12.5 %) on the upper edge. That is enough for
an NVFP4 tensor scale, which sets range and not resolution: being 64 times too large costs 0.01 dB. It takes
5 KiB per histogram.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from .errors import CalibrationError

BINS_PER_OCTAVE = 8
LOWEST_OCTAVE = -40
"""Values below 2**-40 count as zero: far below anything an activation's scale depends on."""
HIGHEST_OCTAVE = 40
BINS = (HIGHEST_OCTAVE - LOWEST_OCTAVE) * BINS_PER_OCTAVE + 1
"""Bin 0 holds zero and everything below 2**-40; the last bin everything from its lower edge upwards."""

RAW_BINS = 2048
"""Eight exponent bits and three mantissa bits: every pattern that a bf16 or fp32 magnitude can have."""
RAW_FINITE = 255 * BINS_PER_OCTAVE
"""Raw bins from here on hold infinities and NaN (all exponent bits set)."""
_RAW_FIRST = (127 + LOWEST_OCTAVE) * BINS_PER_OCTAVE
_RAW_LAST = (127 + HIGHEST_OCTAVE) * BINS_PER_OCTAVE


def magnitude_bits(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Integers that order like the magnitudes of `values`, and the shift that makes raw bins of them.

    bfloat16 is read in place (int16 patterns, shift 4); every other dtype is converted to float32 first
    (int32 patterns, shift 20), which is exact for float16 and the float8 types. The result is a new tensor
    of the same shape that the caller may overwrite. Float64 values above float32's range become infinite.
    """
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16) & 0x7FFF, 4
    return values.to(torch.float32).view(torch.int32) & 0x7FFFFFFF, 20


def bin_index(magnitudes: torch.Tensor) -> torch.Tensor:
    """Bin of each finite value of any float dtype, by magnitude: int64 tensor of the same shape, 0..640."""
    bits, shift = magnitude_bits(magnitudes)
    raw = (bits >> shift).to(torch.int64)
    return (raw - (_RAW_FIRST - 1)).clamp(0, BINS - 1)


def fold(raw: torch.Tensor) -> torch.Tensor:
    """Counts over raw bins, int64 [..., 2048], to int64 [..., 641]. Infinities and NaN are left out."""
    folded = torch.empty((*raw.shape[:-1], BINS), dtype=torch.int64, device=raw.device)
    folded[..., 0] = raw[..., :_RAW_FIRST].sum(-1)
    folded[..., 1:] = raw[..., _RAW_FIRST:_RAW_LAST]
    folded[..., -1] += raw[..., _RAW_LAST:RAW_FINITE].sum(-1)
    return folded


def lower_edges() -> torch.Tensor:
    """Smallest magnitude of each bin (inclusive): float64 [641], 0 for bin 0."""
    return torch.cat((torch.zeros(1, dtype=torch.float64), _edges()[:-1]))


def upper_edges() -> torch.Tensor:
    """Magnitude at which each bin ends (exclusive): float64 [641], 2**-40 for bin 0, 2**40 for the last.

    The last bin also counts what lies above 2**40, so its upper edge is a name rather than a bound.
    """
    return _edges()


def percentile(histogram: torch.Tensor, q: float, maximum: float | None = None, ignore_zero: bool = False) -> float:
    """Upper bound of the q-th percentile (nearest rank, q in 0..100) of the counted magnitudes.

    The upper edge of the bin that holds the ceil(q/100 * n)-th smallest value (at least the first), at most
    9/8 of the exact value for values from 2**-40 on. `maximum` is the exact largest value when it is known:
    the result never exceeds it and equals it when the rank is the last one. `ignore_zero` leaves bin 0 out.
    An empty histogram gives 0.0. Raises CalibrationError for another q or shape.
    """
    if not 0 <= q <= 100:
        raise CalibrationError(f"A percentile lies between 0 and 100, got {q}.")
    counts = _checked(histogram)
    if ignore_zero:
        counts = counts.clone()
        counts[0] = 0
    total = int(counts.sum())
    if total == 0:
        return 0.0
    share = Fraction(repr(float(q))) / 100
    rank = max(1, -((-share.numerator * total) // share.denominator))
    if maximum is not None and rank == total:
        return float(maximum)
    place = int(torch.searchsorted(counts.cumsum(0), rank))
    if maximum is not None and place == BINS - 1:
        return float(maximum)
    edge = float(_edges()[place])
    return edge if maximum is None else min(edge, float(maximum))


def fraction_above(histogram: torch.Tensor, threshold: float) -> float:
    """Share (0..1) of the counted magnitudes that exceed `threshold`.

    Exact at bin edges; inside a bin the counts are taken as evenly spread. An empty histogram gives 0.0.
    """
    counts = _checked(histogram).to(torch.float64)
    total = float(counts.sum())
    if total == 0:
        return 0.0
    if threshold < 0:
        return 1.0
    lower, upper = lower_edges(), _edges()
    part_above = ((upper - threshold) / (upper - lower)).clamp(0.0, 1.0)
    return float((counts * part_above).sum()) / total


def _edges() -> torch.Tensor:
    steps = torch.arange(BINS, dtype=torch.float64)
    octave = torch.floor(steps / BINS_PER_OCTAVE)
    within = 1.0 + (steps - octave * BINS_PER_OCTAVE) / BINS_PER_OCTAVE
    return torch.ldexp(within, (octave + LOWEST_OCTAVE).to(torch.int32))


def _checked(histogram: torch.Tensor) -> torch.Tensor:
    if histogram.dtype != torch.int64 or tuple(histogram.shape) != (BINS,):
        raise CalibrationError(
            f"A magnitude histogram is int64 with {BINS} bins, got {histogram.dtype} {tuple(histogram.shape)}."
        )
    return histogram.detach().cpu()
