"""All metrics of a batch of pairs, and what they come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .haarpsi import haarpsi
from .pairs import require_alike
from .signal import psnr
from .ssim import ssim


@dataclass(frozen=True)
class Scores:
    """One pair: PSNR in dB (infinite when equal), SSIM and HaarPSI (1 when equal)."""

    psnr: float
    ssim: float
    haarpsi: float

    @property
    def equal(self) -> bool:
        return self.psnr == math.inf


@dataclass(frozen=True)
class Summary:
    """Means over the pairs. ``psnr`` is the mean over pairs that differ, ``equal`` counts the others; where all are
    equal it is infinite. ``worst`` is the number of the pair with the lowest PSNR."""

    psnr: float
    ssim: float
    haarpsi: float
    pairs: int
    equal: int
    worst: int


def score(first: Tensor, second: Tensor, each: Callable[[int, int], None] | None = None) -> list[Scores]:
    """Scores of each pair of two batches ``[B, H, W, C]``; ``each`` is called with (pairs done, pairs) after each.

    A pair of one megapixel takes about a second of one CPU core.

    Raises:
        PictureError: no pictures, or the two batches differ in shape.
    """
    require_alike(first, second)
    scores = []
    for number in range(len(first)):
        pair = first[number : number + 1], second[number : number + 1]
        scores.append(Scores(*(float(metric(*pair)) for metric in (psnr, ssim, haarpsi))))
        if each:
            each(number + 1, len(first))
    return scores


def summarise(scores: Sequence[Scores]) -> Summary:
    """The means of at least one pair."""
    differing = [pair.psnr for pair in scores if not pair.equal]
    return Summary(
        psnr=statistics.fmean(differing) if differing else math.inf,
        ssim=statistics.fmean(pair.ssim for pair in scores),
        haarpsi=statistics.fmean(pair.haarpsi for pair in scores),
        pairs=len(scores),
        equal=len(scores) - len(differing),
        worst=min(range(len(scores)), key=lambda number: scores[number].psnr),
    )
