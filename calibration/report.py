"""A calibration as a report: plain data, from which JSON, Markdown and pictures are made."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .convergence import Convergence
from .coverage import Coverage
from .histogram import percentile
from .kinds import kinds
from .page import counted
from .policies import PolicyEffect, effects
from .prediction import mean_square
from .prompts import Prompts
from .scales import DEFAULT_POLICY, POLICIES
from .statistics import PASSES, Calibration, LayerStatistics

OUTLIER = 8.0
"""A layer counts as an outlier from so many times the median amax of its type on: three octaves."""


@dataclass(frozen=True)
class LayerReport:
    """One observed layer.

    kind: its type (see kinds.py). typical_call: median amax of its calls. rms: of its elements, None when
    none were counted. ratio: amax over the median amax of its type. peak: pass and noise bin of its largest
    magnitude, None when unknown. unseen: noise bins in which the model was evaluated, but not this layer.
    policies: what each of POLICIES would do, None where its statistics are missing.
    """

    name: str
    kind: str
    in_features: int
    out_features: int
    calls: int
    rows: int
    elements: int
    nonfinite: int
    amax: float
    typical_call: float
    rms: float | None
    ratio: float
    peak: tuple[str, int] | None
    unseen: tuple[int, ...]
    schedule_amax: tuple[tuple[float, ...], ...]
    policies: dict[str, PolicyEffect | None]

    @property
    def chosen(self) -> PolicyEffect:
        """The default policy, which can always be applied."""
        effect = self.policies[DEFAULT_POLICY]
        assert effect is not None
        return effect


@dataclass(frozen=True)
class KindReport:
    """The layers of one type.

    smallest, median, largest: of their amax; spread: largest over smallest, None when that is 0. ranges:
    smallest and largest range by the default policy, None when all stay dynamic. clip_rates: the largest of
    any layer by policy. sqnr_db, worst_sqnr_db: median and smallest predicted SQNR with the default policy.
    profile: median over the layers of (largest magnitude in the noise bin / amax), None for unseen bins.
    """

    kind: str
    layers: tuple[str, ...]
    unobserved: int
    smallest: float
    median: float
    largest: float
    largest_in: str
    spread: float | None
    ranges: tuple[float, float] | None
    clip_rates: dict[str, float | None]
    sqnr_db: float | None
    worst_sqnr_db: float | None
    profile: tuple[float | None, ...]


@dataclass(frozen=True)
class CalibrationReport:
    """Everything that a calibration tells. schedule: evaluations by pass and noise bin, 15 = full noise."""

    name: str
    summary: str
    samplings: int
    images: int
    steps: int
    layers: tuple[LayerReport, ...]
    kinds: tuple[KindReport, ...]
    schedule: tuple[tuple[int, ...], ...]
    coverage: Coverage
    convergence: Convergence
    unobserved: dict[str, str]
    nonfinite: dict[str, int]
    adaptations: dict[str, int]
    prompts: Prompts

    def outliers(self) -> list[LayerReport]:
        """Layers far above the others of their type, the furthest first."""
        return sorted((layer for layer in self.layers if layer.ratio >= OUTLIER), key=lambda layer: -layer.ratio)

    def largest(self) -> list[LayerReport]:
        """All layers, the largest amax first."""
        return sorted(self.layers, key=lambda layer: (-layer.amax, layer.name))

    def partly_seen(self) -> list[LayerReport]:
        """Layers that did not run at some noise levels at which the model did."""
        return [layer for layer in self.layers if layer.unseen]

    def advice(self) -> list[str]:
        """What to do next, a sentence each."""
        noted = [layer for layer in self.layers if layer.chosen.note]
        lines = [*self.coverage.recommendations]
        if self.samplings:
            lines.append(self.convergence.advice)
        if noted:
            lines.append(f"{noted[0].name}: {noted[0].chosen.note}.")
        if len(noted) > 1:
            lines.append(f"{counted(len(noted) - 1, 'more layer')} with a note of this kind, all in the JSON.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs; infinite numbers are None."""
        return {
            "name": self.name,
            "summary": self.summary,
            "samplings": self.samplings,
            "images": self.images,
            "steps": self.steps,
            "prompts": self.prompts.told(self.samplings),
            "schedule": [list(row) for row in self.schedule],
            "passes": list(PASSES),
            "coverage": {
                "observed": self.coverage.observed,
                "total": self.coverage.total,
                "schedule_seen": self.coverage.schedule_seen,
                "missing_noise_levels": self.coverage.missing_ranges(),
                "missing_bins": list(self.coverage.missing_bins),
                "partly_seen": [layer.name for layer in self.partly_seen()],
            },
            "convergence": {"change": self.convergence.change, "layer": self.convergence.layer or None},
            "advice": self.advice(),
            "unobserved": self.unobserved,
            "nonfinite": self.nonfinite,
            "adaptations": self.adaptations,
            "default_policy": DEFAULT_POLICY,
            "kinds": [finite(asdict(kind)) for kind in self.kinds],
            "outliers": [layer.name for layer in self.outliers()],
            "layers": {layer.name: finite(asdict(layer)) for layer in self.layers},
        }


def calibration_report(calibration: Calibration, name: str = "calibration") -> CalibrationReport:
    """The report of a calibration; `name` is how it is called in it."""
    types = kinds([*calibration.layers, *calibration.unobserved])
    members: dict[str, list[str]] = {}
    for layer in calibration.layers:
        members.setdefault(types[layer], []).append(layer)
    sampled = calibration.schedule.sum(0) > 0
    medians = {
        kind: statistics.median(calibration.layers[layer].amax for layer in names) for kind, names in members.items()
    }
    layers = {
        layer: _layer(layer, types[layer], stats, medians[types[layer]], sampled.tolist())
        for layer, stats in calibration.layers.items()
    }
    missing = [types[layer] for layer in calibration.unobserved]
    return CalibrationReport(
        name=name,
        summary=calibration.summary(),
        samplings=calibration.samplings,
        images=calibration.images,
        steps=calibration.steps,
        layers=tuple(layers.values()),
        kinds=tuple(_kind(kind, [layers[n] for n in names], missing.count(kind)) for kind, names in members.items()),
        schedule=tuple(tuple(row) for row in calibration.schedule.tolist()),
        coverage=calibration.coverage(),
        convergence=calibration.convergence(),
        unobserved=calibration.unobserved,
        nonfinite=calibration.nonfinite_layers(),
        adaptations=calibration.adaptations,
        prompts=calibration.prompts,
    )


def _layer(name: str, kind: str, stats: LayerStatistics, median: float, sampled: Sequence[bool]) -> LayerReport:
    seen = stats.schedule_amax.amax(0).tolist()
    row, place = divmod(int(stats.schedule_amax.argmax()), len(seen))
    square = mean_square(stats)
    return LayerReport(
        name=name,
        kind=kind,
        in_features=stats.in_features,
        out_features=stats.out_features,
        calls=stats.calls,
        rows=stats.rows,
        elements=stats.elements,
        nonfinite=stats.nonfinite,
        amax=stats.amax,
        typical_call=percentile(stats.call_amax, 50, maximum=stats.amax),
        rms=None if square is None else math.sqrt(square),
        ratio=stats.amax / median if median > 0 else 1.0,
        peak=(PASSES[row], place) if max(seen) > 0 else None,
        unseen=tuple(index for index, run in enumerate(sampled) if run and not seen[index]) if max(seen) > 0 else (),
        schedule_amax=tuple(tuple(values) for values in stats.schedule_amax.tolist()),
        policies=effects(stats, name),
    )


def _kind(kind: str, layers: list[LayerReport], unobserved: int) -> KindReport:
    values = [layer.amax for layer in layers]
    ranges = [layer.chosen.amax for layer in layers if layer.chosen.amax is not None]
    predicted = [layer.chosen.sqnr_db for layer in layers if layer.chosen.sqnr_db is not None]
    clip_rates = {}
    for policy in POLICIES:
        known = [effect.clip_rate for layer in layers if (effect := layer.policies[policy]) is not None]
        clip_rates[policy] = max((rate for rate in known if rate is not None), default=None)
    profile = []
    for place in range(len(layers[0].schedule_amax[0])):
        parts = [max(row[place] for row in layer.schedule_amax) / layer.amax for layer in layers if layer.amax > 0]
        profile.append(statistics.median(seen) if (seen := [part for part in parts if part > 0]) else None)
    return KindReport(
        kind=kind,
        layers=tuple(layer.name for layer in layers),
        unobserved=unobserved,
        smallest=min(values),
        median=statistics.median(values),
        largest=max(values),
        largest_in=max(layers, key=lambda layer: layer.amax).name,
        spread=max(values) / min(values) if min(values) > 0 else None,
        ranges=(min(ranges), max(ranges)) if ranges else None,
        clip_rates=clip_rates,
        sqnr_db=statistics.median(predicted) if predicted else None,
        worst_sqnr_db=min(predicted, default=None),
        profile=tuple(profile),
    )


def finite(value: Any) -> Any:
    """Data for JSON, which knows no infinity: such numbers become None."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
