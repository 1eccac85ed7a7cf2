"""How much of the model and of the noise schedule has been seen, and what to add."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .convergence import ENOUGH_SAMPLINGS
from .prompts import Prompts

SCHEDULE_BINS = 16
"""Equal parts of the noise level 0..1; bin 15 holds full noise, where sampling starts."""
FEW_SAMPLINGS = 4
"""Below this the prompts and sizes can hardly have varied."""
FEW_PROMPTS = 4
"""Fewer are too few from eight samplings on, where convergence gives its first verdict. That verdict leaves out a
quarter of the samplings by lot, and of so few prompts hardly one goes with them: it cannot tell what another text would
change. Between four and seven samplings only a single prompt is named; two or three may be a beginning."""


@dataclass(frozen=True)
class Coverage:
    """How much of the model and of the noise schedule a calibration has seen.

    observed, total: Linear layers seen, and known. schedule_seen: share 0..1 of the noise bins with at
    least one model evaluation. missing_bins: the others, ascending (15 = full noise). recommendations: what to
    do about gaps, a sentence each; empty when nothing is missing. lacking: those of them that more samplings of the
    same kind would not answer: an end of the schedule was never reached, or the prompts were too few.
    """

    observed: int
    total: int
    schedule_seen: float
    missing_bins: tuple[int, ...]
    bins: int = 16
    recommendations: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()

    def missing_ranges(self) -> str:
        """The unseen parts in words, as ranges of the noise level: "0.00-0.12, 0.50-0.56"; "" when none."""
        return _named(_ranges(self.missing_bins), self.bins)


def coverage(
    observed: int, total: int, samplings: int, schedule: torch.Tensor, prompts: Prompts | None = None
) -> Coverage:
    """Coverage of `schedule`, int64 [passes, bins] of evaluations, by so many samplings of these prompts."""
    bins = schedule.shape[-1]
    seen = schedule.sum(0) > 0
    missing = tuple(index for index in range(bins) if not seen[index])
    ends, between = _schedule_advice(_ranges(missing), bins) if samplings else ([], [])
    advice = [*ends, *between]
    if 0 < samplings < FEW_SAMPLINGS:
        times = "a single sampling" if samplings == 1 else f"{samplings} samplings"
        advice.append(f"Only {times}: vary prompt, seed and size.")
    repeated = _prompt_advice(prompts or Prompts(), samplings)
    advice.extend(repeated)
    if samplings and int(schedule[1].sum()) == 0:
        advice.append("The unconditional pass was never seen: fine if you always sample with CFG 1.")
    elif samplings and int(schedule[0].sum()) == 0:
        advice.append("The conditional pass was never seen: sample with the prompt connected to positive.")
    return Coverage(observed, total, 1.0 - len(missing) / bins, missing, bins, tuple(advice), (*ends, *repeated))


def _prompt_advice(prompts: Prompts, samplings: int) -> list[str]:
    """Nothing where the prompt of any sampling is unknown: it may have been another one."""
    if prompts.at_least(samplings):
        return []
    if prompts.count == 1 and samplings >= FEW_SAMPLINGS:
        return [f"All {samplings} samplings had the same prompt: vary it."]
    if 0 < prompts.count < FEW_PROMPTS and samplings >= ENOUGH_SAMPLINGS:
        return [f"Only {prompts.count} prompts in {samplings} samplings: vary them."]
    return []


def _schedule_advice(gaps: list[tuple[int, int]], bins: int) -> tuple[list[str], list[str]]:
    """What to do about ranges of bins without an evaluation: a sentence for each end of the schedule, and one for the rest.

    A sampler of few steps that runs to its last one leaves the lowest levels out too: its last evaluation is one step
    above zero, and schedules of shifted flow models take larger steps there than anywhere else.
    """
    if gaps == [(0, bins)]:
        return [f"Sample with this model: {_unseen(gaps, bins)}."], []
    low = [gap for gap in gaps if gap[0] == 0]
    high = [gap for gap in gaps if gap[1] == bins]
    inner = [gap for gap in gaps if gap not in low + high]
    widest = max((last - first for first, last in inner), default=0)
    few = bool(low) and low[0][1] <= min(bins // 2, 2 * (widest + 1))
    ends, between = [], []
    if few:
        unseen = _unseen(low + inner, bins)
        between = [f"Use more or other numbers of steps, unless you always sample with so few: {unseen}."]
    elif inner:
        between = [f"Use more or other numbers of steps: {_unseen(inner, bins)}."]
    if low and not few:
        ends.append(f"Add low-noise steps: {_unseen(low, bins)} (let the sampler run to its last step).")
    if high:
        ends.append(f"Add high-noise steps: {_unseen(high, bins)} (start from an empty latent at denoise 1).")
    return ends, between


def _unseen(gaps: list[tuple[int, int]], bins: int) -> str:
    return f"nothing seen at noise levels {_named(gaps, bins)}"


def _named(ranges: list[tuple[int, int]], bins: int) -> str:
    return ", ".join(f"{low / bins:.2f}-{high / bins:.2f}" for low, high in ranges)


def _ranges(missing: tuple[int, ...]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in missing:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges
