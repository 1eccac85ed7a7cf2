"""What a calibration holds: plain values that can be merged, compared and described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from .channels import ChannelStatistics
from .convergence import FOLDS, Convergence, convergence, largest_change
from .coverage import SCHEDULE_BINS, Coverage, coverage
from .curvature import Curvature
from .errors import CalibrationError
from .fingerprint import UNKNOWN, combined, differing
from .histogram import BINS
from .page import counted
from .prompts import Prompts
from .reservoir import Reservoir

PASSES = ("conditional", "unconditional")
"""The rows of `schedule_amax` and `schedule`. A model without guidance by two passes has the first only."""
NAMED = 3
_Detail = TypeVar("_Detail")


def empty_histogram() -> torch.Tensor:
    """int64 [641] of zeros."""
    return torch.zeros(BINS, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics of everything that entered one Linear layer.

    in_features, out_features: the layer's shape; 0 means unknown (imported from a file without shapes).
    calls, rows: number of calls, and of rows (tokens) in all of them. elements: values counted in the
    histograms, which are of a part of the rows (see observers.py). nonfinite: rows that held NaN or
    infinities; they took no part in anything else. amax: exact largest magnitude of all other rows.
    call_amax, block_amax, element_magnitude: int64 [641] histograms (see histogram.py) of the amax of each
    call, of each 16 neighbouring channels, and of each element; the last two are empty in an imported file.
    schedule_amax: float32 [2, 16], largest magnitude per pass and part of the noise schedule, 0 = not seen.
    fold_amax: float32 [8], largest magnitude of the samplings in each fold (see convergence.py).
    weight_samples: float32 [16] values of the layer's weight, or [0] when unknown (see fingerprint.py).
    channels, curvature, reservoir: what the levels of detail add, None where they were not collected.
    """

    in_features: int
    out_features: int
    calls: int
    rows: int
    elements: int
    nonfinite: int
    amax: float
    call_amax: torch.Tensor
    block_amax: torch.Tensor
    element_magnitude: torch.Tensor
    schedule_amax: torch.Tensor
    fold_amax: torch.Tensor = field(default_factory=lambda: torch.zeros(FOLDS, dtype=torch.float32))
    weight_samples: torch.Tensor = UNKNOWN
    channels: ChannelStatistics | None = None
    curvature: Curvature | None = None
    reservoir: Reservoir | None = None

    def merged(self, other: LayerStatistics) -> LayerStatistics:
        """Statistics of both together: exactly those of one run over both. Raises for different shapes."""
        return LayerStatistics(
            in_features=_same(self.in_features, other.in_features, "input channels"),
            out_features=_same(self.out_features, other.out_features, "output channels"),
            calls=self.calls + other.calls,
            rows=self.rows + other.rows,
            elements=self.elements + other.elements,
            nonfinite=self.nonfinite + other.nonfinite,
            amax=max(self.amax, other.amax),
            call_amax=self.call_amax + other.call_amax,
            block_amax=self.block_amax + other.block_amax,
            element_magnitude=self.element_magnitude + other.element_magnitude,
            schedule_amax=torch.maximum(self.schedule_amax, other.schedule_amax),
            fold_amax=torch.maximum(self.fold_amax, other.fold_amax),
            weight_samples=combined(self.weight_samples, other.weight_samples),
            channels=_joined(self.channels, other.channels, ChannelStatistics.merged),
            curvature=_joined(self.curvature, other.curvature, Curvature.merged),
            reservoir=_joined(self.reservoir, other.reservoir, Reservoir.merged),
        )

    def same_as(self, other: LayerStatistics) -> bool:
        """Whether every number of both is identical."""
        if _scalars(self) != _scalars(other):
            return False
        pairs = zip(_tensors(self), _tensors(other), strict=True)
        return (
            all(torch.equal(mine, theirs) for mine, theirs in pairs)
            and _both(self.channels, other.channels, ChannelStatistics.same_as)
            and _both(self.curvature, other.curvature, Curvature.same_as)
            and _both(self.reservoir, other.reservoir, Reservoir.same_as)
        )


def _nothing_seen() -> torch.Tensor:
    return torch.zeros(len(PASSES), SCHEDULE_BINS, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics of a diffusion model's Linear layers over any number of samplings.

    layers: by the name in the diffusion model's own module tree ("double_blocks.0.img_attn.qkv").
    unobserved: name -> reason, for each Linear that never ran where it could be seen.
    samplings, images, steps: how much was sampled; steps are evaluations of the model.
    schedule: int64 [2, 16], evaluations per pass and part of the noise schedule, bin 15 = full noise; an
    evaluation of both passes in one batch counts in both rows.
    fold_samplings: int64 [8], samplings in each fold (see convergence.py).
    adaptations: what was patched into the weights -> samplings ("none": 12, "224 weights patched (strength
    0.8)": 6).
    prompts: how many different prompts were sampled (see prompts.py).
    """

    layers: dict[str, LayerStatistics] = field(default_factory=dict)
    unobserved: dict[str, str] = field(default_factory=dict)
    samplings: int = 0
    images: int = 0
    steps: int = 0
    schedule: torch.Tensor = field(default_factory=_nothing_seen)
    fold_samplings: torch.Tensor = field(default_factory=lambda: torch.zeros(FOLDS, dtype=torch.int64))
    adaptations: dict[str, int] = field(default_factory=dict)
    prompts: Prompts = Prompts()

    def merged(self, other: Calibration) -> Calibration:
        """Both together: exact, associative and commutative, so that any order of runs gives the same file.

        A layer seen in either counts as observed. Raises CalibrationError, naming the layers, when both hold
        a layer of the same name with another shape or another weight: they come from different models.
        """
        self._check_same_weights(other)
        layers = dict(self.layers)
        for name, statistics in other.layers.items():
            try:
                layers[name] = layers[name].merged(statistics) if name in layers else statistics
            except CalibrationError as error:
                raise CalibrationError(f"These calibrations are of different models: layer {name}: {error}") from error
        unobserved = {
            name: min(found[name] for found in (self.unobserved, other.unobserved) if name in found)
            for name in {**self.unobserved, **other.unobserved}
            if name not in layers
        }
        adaptations = {
            key: self.adaptations.get(key, 0) + other.adaptations.get(key, 0)
            for key in sorted({**self.adaptations, **other.adaptations})
        }
        return Calibration(
            layers=dict(sorted(layers.items())),
            unobserved=dict(sorted(unobserved.items())),
            samplings=self.samplings + other.samplings,
            images=self.images + other.images,
            steps=self.steps + other.steps,
            schedule=self.schedule + other.schedule,
            fold_samplings=self.fold_samplings + other.fold_samplings,
            adaptations=adaptations,
            prompts=self.prompts.merged(other.prompts),
        )

    def coverage(self) -> Coverage:
        """Which share of the layers and of the noise schedule has been seen, and what to add."""
        total = len(self.layers) + len(self.unobserved)
        return coverage(len(self.layers), total, self.samplings, self.schedule, self.prompts)

    def convergence(self) -> Convergence:
        """Whether more samplings would still change the layers' ranges (see convergence.py)."""
        changes = {name: largest_change(layer.fold_amax, self.fold_samplings) for name, layer in self.layers.items()}
        return convergence(changes, self.fold_samplings)

    def enough(self) -> bool:
        """Whether nothing speaks for more images, neither the layers' ranges nor what they were sampled with."""
        return self.convergence().enough and not self.coverage().lacking

    def nonfinite_layers(self) -> dict[str, int]:
        """Layers that were given NaN or infinite values, with the number of such rows, most first."""
        found = {name: layer.nonfinite for name, layer in self.layers.items() if layer.nonfinite}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def adapted(self) -> dict[str, int]:
        """Description -> samplings of everything that was patched into the model, "none" left out."""
        return {key: count for key, count in self.adaptations.items() if key != "none"}

    def summary(self) -> str:
        """One line for a node or a terminal: "18 images, 288 steps, 14 layers, largest amax 3136 in …"."""
        parts = [counted(self.images, "image"), counted(self.steps, "step"), counted(len(self.layers), "layer")]
        if self.layers:
            name = max(self.layers, key=lambda key: self.layers[key].amax)
            parts.append(f"largest amax {self.layers[name].amax:g} in {name}")
        bad = self.nonfinite_layers()
        if bad:
            parts.append(f"NaN or infinite values in {counted(len(bad), 'layer')} (most in {next(iter(bad))})")
        patched = self.adapted()
        if patched:
            parts.append(f"{sum(patched.values())} of {counted(self.samplings, 'sampling')} with patched weights")
        return ", ".join(parts)

    def same_as(self, other: Calibration) -> bool:
        """Whether both hold identical numbers, names and reasons."""
        counts = (self.samplings, self.images, self.steps, self.unobserved, self.adaptations, self.prompts)
        return (
            counts == (other.samplings, other.images, other.steps, other.unobserved, other.adaptations, other.prompts)
            and torch.equal(self.schedule, other.schedule)
            and torch.equal(self.fold_samplings, other.fold_samplings)
            and self.layers.keys() == other.layers.keys()
            and all(layer.same_as(other.layers[name]) for name, layer in self.layers.items())
        )

    def _check_same_weights(self, other: Calibration) -> None:
        other_weights = differing(samples_of(self.layers), samples_of(other.layers))
        if other_weights:
            named = ", ".join(other_weights[:NAMED])
            raise CalibrationError(
                f"These calibrations are of different models: the weights of {len(other_weights)} layers differ "
                f"({named}{', …' if len(other_weights) > NAMED else ''}); merge calibrations of one model only."
            )


def samples_of(layers: Mapping[str, LayerStatistics]) -> dict[str, torch.Tensor]:
    """The fingerprints of some layers, by name."""
    return {name: layer.weight_samples for name, layer in layers.items()}


def _both(mine: _Detail | None, theirs: _Detail | None, same: Callable[[_Detail, _Detail], bool]) -> bool:
    """Whether both are absent, or both present and the same."""
    return mine is theirs if mine is None or theirs is None else same(mine, theirs)


def _joined(
    mine: _Detail | None, theirs: _Detail | None, merge: Callable[[_Detail, _Detail], _Detail]
) -> _Detail | None:
    """Both merged, or the one that is there."""
    return merge(mine, theirs) if mine is not None and theirs is not None else mine if mine is not None else theirs


def _scalars(layer: LayerStatistics) -> Sequence[float]:
    shape = (layer.in_features, layer.out_features)
    return (*shape, layer.calls, layer.rows, layer.elements, layer.nonfinite, layer.amax)


def _tensors(layer: LayerStatistics) -> Sequence[torch.Tensor]:
    histograms = (layer.call_amax, layer.block_amax, layer.element_magnitude)
    return (*histograms, layer.schedule_amax, layer.fold_amax, layer.weight_samples)


def _same(mine: int, theirs: int, what: str) -> int:
    if mine and theirs and mine != theirs:
        raise CalibrationError(f"{mine} and {theirs} {what}.")
    return mine or theirs
