"""What a calibration holds: plain values that can be merged, compared and described."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .errors import CalibrationError
from .histogram import BINS

SCHEDULE_BINS = 16
"""Equal parts of the noise level 0..1; bin 15 holds full noise, where sampling starts."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Statistics of everything that entered one Linear layer.

    in_features, out_features: the layer's shape; 0 means unknown (imported from a file without shapes).
    calls, rows: number of calls, and of rows (tokens) in all of them. elements: finite values counted.
    nonfinite: NaN and infinities, which took no part in anything else. amax: exact largest magnitude.
    call_amax, block_amax, element_magnitude: int64 [641] histograms (see histogram.py) of the amax of each
    call, of each 16 neighbouring channels, and of each element; the last two are empty in an imported file.
    schedule_amax: float32 [16], largest magnitude per part of the noise schedule, 0 where nothing was seen.
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
        )

    def same_as(self, other: LayerStatistics) -> bool:
        """Whether every number of both is identical."""
        return _scalars(self) == _scalars(other) and all(
            torch.equal(mine, theirs) for mine, theirs in zip(_tensors(self), _tensors(other), strict=True)
        )


@dataclass(frozen=True)
class Coverage:
    """How much of the model and of the noise schedule a calibration has seen.

    observed, total: Linear layers seen, and known. schedule_seen: share 0..1 of the 16 noise bins with at
    least one model evaluation. missing_bins: the others, ascending (15 = full noise).
    """

    observed: int
    total: int
    schedule_seen: float
    missing_bins: tuple[int, ...]

    def missing_ranges(self) -> str:
        """The unseen parts in words, as ranges of the noise level: "0.00-0.12, 0.50-0.56"; "" when none."""
        ranges: list[list[int]] = []
        for bin_number in self.missing_bins:
            if ranges and ranges[-1][1] == bin_number:
                ranges[-1][1] = bin_number + 1
            else:
                ranges.append([bin_number, bin_number + 1])
        return ", ".join(f"{low / SCHEDULE_BINS:.2f}-{high / SCHEDULE_BINS:.2f}" for low, high in ranges)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics of a diffusion model's Linear layers over any number of samplings.

    layers: by the name in the diffusion model's own module tree ("double_blocks.0.img_attn.qkv").
    unobserved: name -> reason, for each Linear that never ran where it could be seen.
    samplings, images, steps: how much was sampled; steps are evaluations of the model.
    schedule: int64 [16], evaluations per part of the noise schedule, bin 15 = full noise.
    """

    layers: dict[str, LayerStatistics] = field(default_factory=dict)
    unobserved: dict[str, str] = field(default_factory=dict)
    samplings: int = 0
    images: int = 0
    steps: int = 0
    schedule: torch.Tensor = field(default_factory=lambda: torch.zeros(SCHEDULE_BINS, dtype=torch.int64))

    def merged(self, other: Calibration) -> Calibration:
        """Both together: exact, associative and commutative, so that any order of runs gives the same file.

        A layer seen in either counts as observed. Raises CalibrationError, naming the layer, when both hold
        a layer of the same name with different shapes: they come from different models.
        """
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
        return Calibration(
            layers=dict(sorted(layers.items())),
            unobserved=dict(sorted(unobserved.items())),
            samplings=self.samplings + other.samplings,
            images=self.images + other.images,
            steps=self.steps + other.steps,
            schedule=self.schedule + other.schedule,
        )

    def coverage(self) -> Coverage:
        """Which share of the layers and of the noise schedule has been seen."""
        missing = tuple(index for index, count in enumerate(self.schedule.tolist()) if count == 0)
        return Coverage(
            observed=len(self.layers),
            total=len(self.layers) + len(self.unobserved),
            schedule_seen=1.0 - len(missing) / SCHEDULE_BINS,
            missing_bins=missing,
        )

    def nonfinite_layers(self) -> dict[str, int]:
        """Layers that were given NaN or infinite values, with their number, most first."""
        found = {name: layer.nonfinite for name, layer in self.layers.items() if layer.nonfinite}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def summary(self) -> str:
        """One line for a node or a terminal: "18 images, 288 steps, 14 layers, largest amax 3136 in …"."""
        parts = [_counted(self.images, "image"), _counted(self.steps, "step"), _counted(len(self.layers), "layer")]
        if self.layers:
            name = max(self.layers, key=lambda key: self.layers[key].amax)
            parts.append(f"largest amax {self.layers[name].amax:g} in {name}")
        bad = self.nonfinite_layers()
        if bad:
            parts.append(f"NaN or infinite values in {_counted(len(bad), 'layer')} (most in {next(iter(bad))})")
        return ", ".join(parts)

    def same_as(self, other: Calibration) -> bool:
        """Whether both hold identical numbers, names and reasons."""
        counts = (self.samplings, self.images, self.steps, self.unobserved)
        return (
            counts == (other.samplings, other.images, other.steps, other.unobserved)
            and torch.equal(self.schedule, other.schedule)
            and self.layers.keys() == other.layers.keys()
            and all(layer.same_as(other.layers[name]) for name, layer in self.layers.items())
        )


def empty_histogram() -> torch.Tensor:
    """int64 [641] of zeros."""
    return torch.zeros(BINS, dtype=torch.int64)


def _scalars(layer: LayerStatistics) -> Sequence[float]:
    shape = (layer.in_features, layer.out_features)
    return (*shape, layer.calls, layer.rows, layer.elements, layer.nonfinite, layer.amax)


def _tensors(layer: LayerStatistics) -> Sequence[torch.Tensor]:
    return (layer.call_amax, layer.block_amax, layer.element_magnitude, layer.schedule_amax)


def _same(mine: int, theirs: int, what: str) -> int:
    if mine and theirs and mine != theirs:
        raise CalibrationError(f"{mine} and {theirs} {what}.")
    return mine or theirs


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
