"""What rounding to NVFP4 with a given range would do to a layer's input, predicted from its histograms.

The histograms of block amax and of elements are known; which elements share a block is not. A block of amax
b is therefore taken as one element b and fifteen others, partly drawn from all elements not larger than b
(right where single channels stick out), partly normal and reaching up to b (right where whole rows differ in
size), mixed so that the mean square of the elements comes out as counted. For normal, GELU, log-normal, row- and
channel-scaled inputs the result is within 1 dB of rounding them, and within 2 dB where they are clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch

from .histogram import BINS, BINS_PER_OCTAVE, bin_index, lower_edges, upper_edges
from .statistics import LayerStatistics

BLOCK = 16
_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of E2M1."""
_SCALE_MAX = 448.0
_NORMAL = -6
"""Exponent of the smallest E4M3 value with full resolution. In the four octaves below, its steps get coarser."""
_REGIMES = 5
_LOST = _REGIMES
"""Blocks whose scale would be rounded to zero."""
_DISTANCE = 6 * BINS_PER_OCTAVE
"""Elements that many bins below their block's amax are rounded to zero for sure."""
_SIGMA = 0.47
"""Of normal blocks, by their amax: the median largest of 16 normal values is 2.1 sigma."""


@dataclass(frozen=True)
class BlockModel:
    """Blocks as a layer's histograms describe them.

    weights: float64 [n], number of blocks of each kind. bins: int64 [n], their amax. others: float64
    [n, 641], how the fifteen other elements are spread over the bins. amax: of the layer.
    """

    weights: torch.Tensor
    bins: torch.Tensor
    others: torch.Tensor
    amax: float

    def sqnr_db(self, amax: float | None) -> float:
        """SQNR in dB of the input rounded with the range `amax`; None is dynamic, taken as the layer's amax.

        10 log10(sum x^2 / sum (x - Q(x))^2), where Q rounds to E2M1 under an E4M3 scale for each 16 channels
        under the tensor's scale amax / 2688. It counts rounding, clipping, and blocks so small that their
        scale loses resolution or becomes zero.
        """
        limit = self.amax if amax is None else amax
        rounded, top = _tables()
        tops, squares = _middles()[self.bins], _squares()
        regime = (_NORMAL - torch.floor(torch.log2(_SCALE_MAX * tops / limit))).clamp(0, _LOST).long()
        places = self.bins[:, None] - torch.arange(BINS)
        relative = rounded[regime[:, None], _phase(self.bins)[:, None], places.clamp(0, _DISTANCE - 1)]
        noise = torch.where(places < _DISTANCE, relative * tops[:, None] ** 2, squares)
        noise_top = top[regime] * tops**2
        clipped = tops > limit
        if bool(clipped.any()):
            noise[clipped] = _clipped(limit)
            noise_top[clipped] = (tops[clipped] - limit) ** 2
        error = self._sum(noise_top, (self.others * noise).sum(1))
        return 10 * math.log10(self._sum(tops**2, self.others @ squares) / error) if error > 0 else math.inf

    def lost(self, amax: float | None) -> float:
        """Share 0..1 of the blocks that become zero, because their scale is below half the smallest of E4M3."""
        smallest = (self.amax if amax is None else amax) / _SCALE_MAX * 2.0 ** (_NORMAL - _REGIMES + 1)
        return float(self.weights[_middles()[self.bins] < smallest].sum() / self.weights.sum())

    def _sum(self, top: torch.Tensor, other: torch.Tensor) -> float:
        return float(self.weights @ (top + (BLOCK - 1) * other))


def block_model(stats: LayerStatistics) -> BlockModel | None:
    """The blocks of one layer; None without block and element statistics (imported), or when all is zero."""
    blocks, elements = stats.block_amax.double(), stats.element_magnitude.double()
    if not float(blocks[1:].sum()) or not float(elements.sum()) or stats.amax <= 0:
        return None
    blocks = blocks + _largest_calls(stats)
    bins = blocks[1:].nonzero().flatten() + 1
    weights, squares = blocks[bins], _squares()
    drawn = elements * (torch.arange(BINS) <= bins[:, None])
    drawn = drawn / drawn.sum(1, keepdim=True).clamp(min=1)
    reaching = _reaching()[_phase(bins)[:, None], (bins[:, None] - torch.arange(BINS)).clamp(-1, BINS - 1)]
    model = [BlockModel(weights, bins, others, stats.amax) for others in (drawn, reaching)]
    least, most = (each._sum(_middles()[bins] ** 2, each.others @ squares) for each in model)
    counted = (mean_square(stats) or 0.0) * BLOCK * float(stats.block_amax.sum())
    share = min(1.0, max(0.0, (counted - least) / (most - least))) if most > least else 0.0
    return BlockModel(weights, bins, (1 - share) * drawn + share * reaching, stats.amax)


def mean_square(stats: LayerStatistics) -> float | None:
    """Mean square of the layer's elements by their histogram, None when none were counted."""
    elements = stats.element_magnitude.double()
    return float(elements @ _squares() / elements.sum()) if float(elements.sum()) else None


def _largest_calls(stats: LayerStatistics) -> torch.Tensor:
    """[641], blocks that hold the largest value of a call but are beyond all sampled ones.

    Histograms are of a part of the rows, the largest value of each call is of all; each such block counts as
    much as a sampled one does. Without them, clipping of rare large values would go unseen.
    """
    calls = stats.call_amax.double()
    calls[: int(stats.block_amax.nonzero().max()) + 1] = 0
    values = stats.rows * stats.in_features
    return calls * min(1.0, stats.elements / values) if values else calls * 0


def _clipped(limit: float) -> torch.Tensor:
    """[641], squared error of an element in a block whose amax is above the range."""
    place = bin_index(torch.tensor(limit))
    below = place - torch.arange(BINS)
    rounded = _tables()[0][0, _phase(place), below.clamp(0, _DISTANCE - 1)] * limit**2
    inside = torch.where(below < _DISTANCE, rounded, _squares())
    return torch.where(below >= 0, inside, (_middles() - limit) ** 2)


def _phase(bins: torch.Tensor) -> torch.Tensor:
    """Place 0..7 of a bin within its octave."""
    return (bins - 1) % BINS_PER_OCTAVE


@lru_cache(maxsize=1)
def _middles() -> torch.Tensor:
    """[641], the middle of each bin, 0 for bin 0."""
    with torch.inference_mode(False):
        middles = (lower_edges() + upper_edges()) / 2
        middles[0] = 0
        return middles


@lru_cache(maxsize=1)
def _squares() -> torch.Tensor:
    """[641], mean square of values spread evenly over each bin."""
    with torch.inference_mode(False):
        low, high = lower_edges(), upper_edges()
        squares = (low**2 + low * high + high**2) / 3
        squares[0] = 0
        return squares


@lru_cache(maxsize=1)
def _reaching() -> torch.Tensor:
    """[8, 641]: for a block's phase, the share of normal values in each bin so far below its amax; last 0."""
    with torch.inference_mode(False):
        bins = torch.arange(BINS - BINS_PER_OCTAVE, BINS)
        edges = torch.cat((lower_edges(), upper_edges()[-1:])) / _middles()[bins][:, None] / _SIGMA
        reached = torch.erf(edges / math.sqrt(2)).diff(dim=1)
        reached = reached * (torch.arange(BINS) <= bins[:, None])
        reached = reached / reached.sum(1, keepdim=True)
        shares = torch.zeros(BINS_PER_OCTAVE, BINS, dtype=torch.float64)
        for row, place in enumerate(bins.tolist()):
            shares[_phase(torch.tensor(place)), : place + 1] = reached[row, : place + 1].flip(0)
        shares[:, -1] = 0
        return shares


@lru_cache(maxsize=1)
def _tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared errors in units of the block's amax squared: [6, 8, 48] of the others, [6] of the largest.

    By regime of the block's scale (normal, four octaves of ever coarser steps, zero), the phase of its amax
    and the element's distance in bins; averaged over places inside the bins and inside the scale's octave.
    """
    with torch.inference_mode(False):
        places = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
        octave = torch.exp2(_NORMAL - torch.arange(_REGIMES + 1, dtype=torch.float64))
        scale = octave[:, None] * (1 + places)
        kept = scale.to(torch.float8_e4m3fn).double()
        kept[_LOST] = 0
        bins = torch.arange(BINS - BINS_PER_OCTAVE, BINS)
        low, high = lower_edges(), upper_edges()
        top = low[bins, None] + (high - low)[bins, None] * places[::2]
        inner = (bins[:, None] - torch.arange(_DISTANCE))[:, :, None]
        value = low[inner] + (high - low)[inner] * places[::2]
        share = (value[:, :, None, :] / top[:, None, :, None]).clamp(max=1.0)
        stretch = (kept / scale)[:, None, None, :, None, None]
        errors = _rounding(share[None, :, :, None], stretch) ** 2
        rounded = torch.zeros(_REGIMES + 1, BINS_PER_OCTAVE, _DISTANCE, dtype=torch.float64)
        rounded[:, _phase(bins)] = errors.mean((3, 4, 5))
        return rounded, (_rounding(torch.ones(1, dtype=torch.float64), kept / scale) ** 2).mean(1)


def _rounding(share: torch.Tensor, stretch: torch.Tensor) -> torch.Tensor:
    """Error of elements `share` of their block's amax, when its scale was stretched by rounding; in its amax."""
    levels = torch.tensor(_LEVELS, dtype=torch.float64)
    exact = share * _LEVELS[-1] / stretch.clamp(min=1e-9)
    index = torch.bucketize(exact.contiguous(), (levels[1:] + levels[:-1]) / 2)
    return share - levels[index] / _LEVELS[-1] * stretch
