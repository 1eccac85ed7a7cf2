"""Two calibrations side by side: how much larger or smaller each layer's inputs are in the second."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .coverage import SCHEDULE_BINS
from .errors import CalibrationError
from .fingerprint import differing
from .histogram import fraction_above
from .kinds import kinds
from .page import counted, decibels, number
from .prediction import block_model
from .report import finite
from .scales import activation_range
from .statistics import Calibration, LayerStatistics, samples_of

EQUAL = 1.1
"""Ratios below this, and above its inverse, are no more than the spread between two runs of one model."""
HARM_DB = 1.0
"""From this loss on, the first calibration's scales are said to be unfit for the second model."""


@dataclass(frozen=True)
class LayerChange:
    """A layer in both calibrations.

    ratio: second amax over the first, inf when only the first is 0. reused: the first one's range by the
    default policy, None = dynamic; clip_rate: share 0..1 of the second one's elements above it; sqnr_db,
    own_sqnr_db: predicted SQNR of the second one's input in NVFP4 with the first one's range and with its own.
    The last three are None where the histograms are missing.
    """

    name: str
    kind: str
    first: float
    second: float
    ratio: float
    reused: float | None
    clip_rate: float | None
    sqnr_db: float | None
    own_sqnr_db: float | None

    @property
    def harm_db(self) -> float:
        """What the first one's range costs the second model, 0 when unknown."""
        if self.sqnr_db is None or self.own_sqnr_db is None:
            return 0.0
        return max(0.0, self.own_sqnr_db - self.sqnr_db)


@dataclass(frozen=True)
class KindChange:
    """The layers of one type: medians of both amax, and median, smallest and largest ratio."""

    kind: str
    layers: int
    first: float
    second: float
    ratio: float
    smallest: float
    largest: float
    largest_in: str


@dataclass(frozen=True)
class Comparison:
    """first, second: the calibrations' names. layers: those in both. only_first, only_second: the others.
    other_weights: layers whose weights differ (see fingerprint.py). unmatched_bins: noise bins that only one
    has seen, as (bins of the first alone, bins of the second alone).
    """

    first: str
    second: str
    layers: tuple[LayerChange, ...]
    kinds: tuple[KindChange, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_weights: tuple[str, ...]
    unmatched_bins: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def ratio(self) -> float:
        """The median ratio of all layers."""
        return statistics.median(layer.ratio for layer in self.layers)

    def movers(self) -> list[LayerChange]:
        """All layers, the most changed in either direction first."""
        return sorted(self.layers, key=lambda layer: (-distance(layer.ratio), layer.name))

    def harmed(self) -> list[LayerChange]:
        """Layers of the second that the first one's ranges would harm, the most harmed first."""
        return sorted((layer for layer in self.layers if layer.harm_db >= HARM_DB), key=lambda layer: -layer.harm_db)

    def verdict(self) -> list[str]:
        """The result in sentences: how large the change is, where, and what it means for stored scales."""
        moved = sum(distance(layer.ratio) > math.log2(EQUAL) for layer in self.layers)
        far = self.movers()[0]
        lines = [
            f"{self.second} against {self.first}: inputs are in the median {times(self.ratio)} "
            f"({counted(len(self.layers), 'layer')} in both, {moved} of them changed by more than {EQUAL - 1:.0%})."
        ]
        if moved:
            lines.append(
                f"Most changed: {far.name}, from {number(far.first)} to {number(far.second)}, {times(far.ratio)}."
            )
        harmed = self.harmed()
        if harmed:
            worst = harmed[0]
            lines.append(
                f"Scales from {self.first} would harm {counted(len(harmed), 'layer')} of {self.second}, most {worst.name} "
                f"(predicted {decibels(worst.sqnr_db)} instead of {decibels(worst.own_sqnr_db)}): calibrate {self.second} itself."
            )
        elif any(layer.own_sqnr_db is not None for layer in self.layers):
            lines.append(f"Scales from {self.first} would serve {self.second} as well: no layer loses {HARM_DB:g} dB.")
        if self.other_weights:
            lines.append(
                f"Weights differ in {counted(len(self.other_weights), 'layer')}, first {self.other_weights[0]}."
            )
        for name, alone in ((self.first, self.only_first), (self.second, self.only_second)):
            if alone:
                lines.append(f"Only in {name}: {counted(len(alone), 'layer')}, first {alone[0]}.")
        for name, bins in zip((self.first, self.second), self.unmatched_bins, strict=True):
            if bins:
                lines.append(
                    f"Only {name} has seen {len(bins)} of {SCHEDULE_BINS} noise levels, "
                    "so ranges may differ for that reason."
                )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs; infinite numbers are None."""
        content: dict[str, Any] = finite(asdict(self))
        changes = {layer.name: {**asdict(layer), "harm_db": layer.harm_db} for layer in self.layers}
        content.update(ratio=finite(self.ratio), verdict=self.verdict(), layers=finite(changes))
        return content


def compare(first: Calibration, second: Calibration, first_name: str = "A", second_name: str = "B") -> Comparison:
    """Compare two calibrations, of one model or of a model and its merged or tuned descendant.

    Raises CalibrationError when they have no layer in common, or most common layers have other shapes.
    """
    common = [name for name in first.layers if name in second.layers]
    fitting = [name for name in common if _same_shape(first.layers[name], second.layers[name])]
    if len(fitting) * 2 <= max(len(common), 1):
        raise CalibrationError(
            f"{first_name} and {second_name} are of different models: of {len(first.layers)} and {len(second.layers)} "
            f"layers {len(fitting)} have the same name and shape; compare calibrations of related models."
        )
    types = kinds({**first.layers, **second.layers, **first.unobserved, **second.unobserved})
    layers = tuple(_change(name, types[name], first.layers[name], second.layers[name]) for name in fitting)
    members: dict[str, list[LayerChange]] = {}
    for layer in layers:
        members.setdefault(layer.kind, []).append(layer)
    mine, theirs = ((found.schedule.sum(0) > 0).tolist() for found in (first, second))
    known = any(mine) and any(theirs)
    return Comparison(
        first=first_name,
        second=second_name,
        layers=layers,
        kinds=tuple(_kind(kind, found) for kind, found in members.items()),
        only_first=_without(first.layers, fitting),
        only_second=_without(second.layers, fitting),
        other_weights=tuple(differing(samples_of(first.layers), samples_of(second.layers))),
        unmatched_bins=(
            tuple(index for index in range(SCHEDULE_BINS) if known and mine[index] and not theirs[index]),
            tuple(index for index in range(SCHEDULE_BINS) if known and theirs[index] and not mine[index]),
        ),
    )


def times(ratio: float) -> str:
    """A ratio in words: "20 times larger", "3.1 times smaller", "about equal (1.02 times)"."""
    if distance(ratio) <= math.log2(EQUAL):
        return f"about equal ({ratio:.2f} times)"
    if ratio > 1:
        return "larger, from zero" if math.isinf(ratio) else f"{number(ratio, 3)} times larger"
    return f"{number(1 / ratio, 3)} times smaller" if ratio > 0 else "zero now"


def factor(ratio: float) -> str:
    """A ratio in figures: "24 x", "1/3.1 x", "inf x"."""
    return f"1/{number(1 / ratio, 3)} x" if 0 < ratio < 1 else f"{number(ratio, 3)} x"


def distance(ratio: float) -> float:
    """Octaves between a ratio and 1."""
    return abs(math.log2(ratio)) if 0 < ratio < math.inf else math.inf


def _change(name: str, kind: str, first: LayerStatistics, second: LayerStatistics) -> LayerChange:
    ratio = second.amax / first.amax if first.amax > 0 else (math.inf if second.amax > 0 else 1.0)
    reused, own = activation_range(first, name=name).amax, activation_range(second, name=name).amax
    model = block_model(second)
    counted = int(second.element_magnitude.sum()) > 0
    return LayerChange(
        name=name,
        kind=kind,
        first=first.amax,
        second=second.amax,
        ratio=ratio,
        reused=reused,
        clip_rate=(fraction_above(second.element_magnitude, reused) if reused else 0.0) if counted else None,
        sqnr_db=model.sqnr_db(reused) if model else None,
        own_sqnr_db=model.sqnr_db(own) if model else None,
    )


def _kind(kind: str, layers: list[LayerChange]) -> KindChange:
    ratios = [layer.ratio for layer in layers]
    return KindChange(
        kind=kind,
        layers=len(layers),
        first=statistics.median(layer.first for layer in layers),
        second=statistics.median(layer.second for layer in layers),
        ratio=statistics.median(ratios),
        smallest=min(ratios),
        largest=max(ratios),
        largest_in=max(layers, key=lambda layer: layer.ratio).name,
    )


def _same_shape(mine: LayerStatistics, theirs: LayerStatistics) -> bool:
    """Whether the shapes agree where both are known."""
    sides = ((mine.in_features, theirs.in_features), (mine.out_features, theirs.out_features))
    return all(a == b or not a or not b for a, b in sides)


def _without(layers: Mapping[str, LayerStatistics], common: list[str]) -> tuple[str, ...]:
    return tuple(sorted(layers.keys() - set(common)))
