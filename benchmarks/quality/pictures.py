"""Pictures of a demo model, how far two sets of them are apart, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nvfp4_studio.calibration import Calibration, Collector
from nvfp4_studio.converters.pictures import mean_interval
from nvfp4_studio.demo.conditioning import CLASSES
from nvfp4_studio.demo.data import unfold
from nvfp4_studio.demo.runtime import load_model
from nvfp4_studio.demo.sampling import Velocity, sample

SEEDS_IN_A_BATCH = 8


def calibrate(source: Path, seeds: range, detail: str) -> Calibration:
    """Statistics of the source while it draws every class with each of the seeds."""
    model = load_model(source)
    collector = Collector(model, detail=detail)
    labels, noise = _one_of_each(seeds)
    sample(model, labels, noise, observing=collector.observing)
    return collector.finish(images=len(labels))


def draw(checkpoint: Path, seeds: range, quantize_activations: bool) -> Tensor:
    """Ink 0..1 of every class with each of the seeds, [seeds, 10, 32, 32]."""
    return draw_with(load_model(checkpoint, quantize_activations), seeds)


def draw_with(model: Velocity, seeds: range) -> Tensor:
    """The same from a model."""
    drawn = []
    for first in range(0, len(seeds), SEEDS_IN_A_BATCH):
        drawn.append(unfold(sample(model, *_one_of_each(seeds[first : first + SEEDS_IN_A_BATCH]))))
    return torch.cat(drawn).unflatten(0, (len(seeds), CLASSES))


def _one_of_each(seeds: range) -> tuple[list[int], list[int]]:
    """Labels and seeds, class by class for each seed."""
    return [label for _ in seeds for label in range(CLASSES)], [seed for seed in seeds for _ in range(CLASSES)]


def psnr_by_seed(reference: Tensor, other: Tensor) -> list[float]:
    """Mean PSNR in dB of each seed's pictures: [seeds, 10, H, W] twice to one number per seed.

    The ten pictures of a seed start from the same noise and are not independent, so a seed is what is counted.
    """
    error = (reference.double() - other.double()).square().mean(dim=(2, 3))
    return [float(value) for value in (-10.0 * error.log10()).mean(dim=1)]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % confidence interval, by Student's t."""
    interval = mean_interval(values)
    return interval.mean, interval.half_width
