"""From statistics to a layer's activation range and its stored input_scale, by named policy.

Why the default is what it is (measured, output SQNR on calls not calibrated on): 64 times too large a range
costs 0.01 dB, 4 times too small a one 10 dB, because NVFP4's block scales carry the resolution and the
tensor scale only shifts their window. Generous is therefore safe, and clipping is not. The one danger of a
generous range is a freak value so large that ordinary blocks fall below the smallest block scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import CalibrationError
from .histogram import fraction_above, percentile

if TYPE_CHECKING:
    from .statistics import LayerStatistics

DEFAULT_POLICY = "p99.9"

POLICIES: dict[str, str] = {
    "p99.9": "99.9th percentile of the largest magnitude of each call, times 2: the tensor scale sets range, not "
    "resolution, so headroom costs nothing and clipping costs much; guarded against a single freak value.",
    "max": "The largest magnitude seen, without headroom: clips calls that are larger than the calibrated ones.",
    "elements-p99.9": "99.9th percentile of all elements: clips one element in 1000, usually with visible loss; "
    "for reproducing published recipes.",
    "elements-p99.99": "99.99th percentile of all elements: clips one element in 10000; for reproducing "
    "published recipes.",
    "dynamic": "No stored scale: ComfyUI measures each call (NVFP4), or computes in full precision (FP8).",
}

HEADROOM = 2.0
WINDOW = 28672.0
"""448 / 2**-6, the largest over the smallest normal E4M3 block scale: as far apart as the amax of two blocks
may lie with both keeping their resolution."""

_DENOMINATORS = {"nvfp4": 448.0 * 6.0, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
_ELEMENT_PERCENTILES = {"elements-p99.9": 99.9, "elements-p99.99": 99.99}


@dataclass(frozen=True)
class ActivationRange:
    """The range that a layer's input is quantized to.

    amax: largest magnitude represented; None = dynamic, no input_scale is stored.
    clip_rate: predicted share 0..1 of the elements above it, None when no elements were counted. guarded: a freak value was left out.
    note: what the user should know, "" when nothing.
    """

    amax: float | None
    clip_rate: float | None
    guarded: bool
    note: str


def activation_range(stats: LayerStatistics, policy: str = DEFAULT_POLICY, name: str = "") -> ActivationRange:
    """The range of one layer by one of POLICIES; `name` is used in errors only.

    p99.9: v = 2 * p99.9(amax of each call), which is twice the maximum below 1000 calls. The guard, with
    hi = 28672 * p1(amax of blocks that are not zero) / 2: when v > hi, the smallest blocks would lose their
    resolution, and v becomes max(hi, p99.99(block amax)), never more than before. Below 10000 blocks their
    p99.99 is the maximum, so nothing is left out. Without block statistics (imported) there is no guard.
    max, elements-p…: as in POLICIES. A layer that saw only zeros is left dynamic: no scale can be derived.

    Raises CalibrationError for an unknown policy, and for an element policy without element statistics.
    """
    if policy not in POLICIES:
        raise CalibrationError(f"Unknown input scale policy {policy!r}; choose one of {', '.join(POLICIES)}.")
    if policy == "dynamic":
        return ActivationRange(None, 0.0, False, "")
    if stats.amax <= 0:
        return ActivationRange(None, 0.0, False, "its input was zero or not finite in every call: left dynamic")
    if policy == "p99.9":
        return _calls_range(stats)
    if policy == "max":
        return ActivationRange(stats.amax, 0.0, False, _nonfinite_note(stats))
    if int(stats.element_magnitude.sum()) == 0:
        raise CalibrationError(
            f"Layer {name or '(unnamed)'} has no element statistics, which the policy {policy} needs "
            "(an imported calibration has none); choose p99.9 or max, or calibrate while generating."
        )
    value = percentile(stats.element_magnitude, _ELEMENT_PERCENTILES[policy], maximum=stats.amax)
    return _range(stats, value, False, "")


def input_scale(amax: float, format: str) -> float:
    """The stored input_scale of a layer whose input range is `amax`: float32 value, not yet rounded to it.

    nvfp4: amax / (448 * 6), the largest block scale times the largest E2M1 value; float8_e4m3fn: amax / 448;
    float8_e5m2: amax / 57344, the largest finite values (comfy-kitchen 0.2.31, ComfyUI 0.33 QUANT_ALGOS).
    Raises CalibrationError for another format or an amax that is not positive and finite.
    """
    if format not in _DENOMINATORS:
        raise CalibrationError(f"Format {format!r} has no input_scale; known are {', '.join(_DENOMINATORS)}.")
    if not 0 < amax < float("inf"):
        raise CalibrationError(f"An input_scale needs a positive, finite amax, got {amax}.")
    return amax / _DENOMINATORS[format]


def _calls_range(stats: LayerStatistics) -> ActivationRange:
    value = HEADROOM * percentile(stats.call_amax, 99.9, maximum=stats.amax)
    smallest = percentile(stats.block_amax, 1, maximum=stats.amax, ignore_zero=True)
    if smallest == 0:
        return _range(stats, value, False, "no block statistics, so a freak value would not be noticed")
    highest = WINDOW * smallest / 2
    if value <= highest:
        return _range(stats, value, False, "")
    limited = min(value, max(highest, percentile(stats.block_amax, 99.99, maximum=stats.amax)))
    if limited >= stats.amax:
        note = f"its blocks differ by more than {WINDOW:g} times, so the smallest lose resolution"
    else:
        note = f"the largest input, {stats.amax:g}, is so far from the rest that the range stops at {limited:g}"
    return _range(stats, limited, limited < stats.amax, f"{note}; FP8 or a dynamic scale may suit this layer better")


def _range(stats: LayerStatistics, value: float, guarded: bool, note: str) -> ActivationRange:
    clip_rate: float | None = 0.0
    if value < stats.amax:
        counted = int(stats.element_magnitude.sum()) > 0
        clip_rate = fraction_above(stats.element_magnitude, value) if counted else None
    notes = [part for part in (note, _nonfinite_note(stats)) if part]
    return ActivationRange(value, clip_rate, guarded, "; ".join(notes))


def _nonfinite_note(stats: LayerStatistics) -> str:
    return f"{stats.nonfinite} NaN or infinite inputs were left out" if stats.nonfinite else ""
