"""How much of the model and of the noise schedule has been seen, and what to add."""

from __future__ import annotations

from dataclasses import dataclass

import torch

SCHEDULE_BINS = 16
"""Equal parts of the noise level 0..1; bin 15 holds full noise, where sampling starts."""
FEW_SAMPLINGS = 4
"""Below this the prompts and sizes can hardly have varied."""


@dataclass(frozen=True)
class Coverage:
    """How much of the model and of the noise schedule a calibration has seen.

    observed, total: Linear layers seen, and known. schedule_seen: share 0..1 of the noise bins with at
    least one model evaluation. missing_bins: the others, ascending (15 = full noise). recommendations: what
    to do about gaps, a sentence each; empty when nothing is missing.
    """

    observed: int
    total: int
    schedule_seen: float
    missing_bins: tuple[int, ...]
    bins: int = 16
    recommendations: tuple[str, ...] = ()

    def missing_ranges(self) -> str:
        """The unseen parts in words, as ranges of the noise level: "0.00-0.12, 0.50-0.56"; "" when none."""
        return ", ".join(f"{low / self.bins:.2f}-{high / self.bins:.2f}" for low, high in _ranges(self.missing_bins))


def coverage(observed: int, total: int, samplings: int, schedule: torch.Tensor) -> Coverage:
    """Coverage of `schedule`, int64 [passes, bins] of evaluations, by so many samplings."""
    bins = schedule.shape[-1]
    seen = schedule.sum(0) > 0
    missing = tuple(index for index in range(bins) if not seen[index])
    advice = [_schedule_advice(low, high, bins) for low, high in _ranges(missing)] if samplings else []
    if 0 < samplings < FEW_SAMPLINGS:
        times = "a single sampling" if samplings == 1 else f"{samplings} samplings"
        advice.append(f"Only {times}: vary prompt, seed and size.")
    if samplings and int(schedule[1].sum()) == 0:
        advice.append("The unconditional pass was never seen: fine if you always sample with CFG 1.")
    elif samplings and int(schedule[0].sum()) == 0:
        advice.append("The conditional pass was never seen: sample with the prompt connected to positive.")
    return Coverage(observed, total, 1.0 - len(missing) / bins, missing, bins, tuple(advice))


def _schedule_advice(low: int, high: int, bins: int) -> str:
    span = f"nothing seen at noise levels {low / bins:.2f}-{high / bins:.2f}"
    if high - low == 1 and low > 0 and high < bins:
        return f"Use more or other numbers of steps: {span}."
    if low == 0 and high == bins:
        return f"Sample with this model: {span}."
    if low == 0:
        return f"Add low-noise steps: {span} (let the sampler run to its last step)."
    if high == bins:
        return f"Add high-noise steps: {span} (start from an empty latent at denoise 1)."
    return f"Use more steps: {span}."


def _ranges(missing: tuple[int, ...]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in missing:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges
