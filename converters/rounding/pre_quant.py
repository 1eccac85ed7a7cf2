"""pre_quant_scale: channels of an input are multiplied before they are quantized, and weights divided by the same.

``x W^T = (x · p) (W / p)^T`` for any p, but not once both sides are rounded: with p small where inputs are large,
a block of the input has no channel that sticks out, and the weights that count most are large in theirs. After Lin et
al., "AWQ: Activation-aware Weight Quantization" (2023), ``p = size^-exponent`` with the root mean square of each
channel as its size and one exponent a layer, which is searched (``held_out.search_pre_quant``).

* p is rounded to bfloat16 *before* weights are divided by it. ComfyUI multiplies by p in the input's dtype, and
  bfloat16 is exact in that and in float16 and float32, so it is the very number that the weights were divided by.
* Powers of two would make the product exact too. The rounding that they save is 54 dB down, and held-out output errors
  are 0.2 to 0.3 dB larger with them (means over the layers of two trained models, nearest and gptq alike).
* Pictures of two trained models are 0.4 to 1.2 dB closer with it after nearest and weighted rounding, 0.2 and 0.8 dB
  after GPTQ (``benchmarks/picture_quality.py --measured``). It has to be asked for, because LoRAs are scaled with it.
* A layer then computes with other inputs, so everything that was seen of them is transformed with it (``transformed``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ...calibration.channels import ChannelStatistics
from ...calibration.counting import block_amax
from ...calibration.curvature import BLOCK, Curvature
from ...calibration.exact import to_limbs
from ...calibration.histogram import BINS, BINS_PER_OCTAVE, bin_index
from ...calibration.reservoir import Reservoir
from ...calibration.stored import Held
from . import weighted

if TYPE_CHECKING:
    from ...calibration import LayerStatistics

DTYPE = torch.bfloat16
EXPONENTS = (0.25, 0.5, 0.75)
"""What the search tries: the best of most layers lies between 0.25 and 0.5, and 1 was the best of none."""
OCTAVES = 8
"""How far a channel's size counts from the mean: one that was hardly seen must not be amplified at will."""


def missing(statistics: LayerStatistics | None) -> str | None:
    """Why a layer cannot have a pre_quant_scale, in a few words; None when it can."""
    if statistics is None:
        return "not calibrated"
    return "calibrated without detail channels" if statistics.channels is None else weighted.missing(statistics)


def pre_quant_scale(statistics: LayerStatistics, exponent: float) -> torch.Tensor:
    """What inputs are multiplied by: bfloat16 [K], ``(size / geometric mean of the sizes)^-exponent``.

    Channels that never carried anything get 1.
    """
    squares = weighted.mean_square(statistics)
    octaves = torch.log2(squares) / 2
    seen = squares > 0
    octaves = octaves - octaves[seen].mean() if bool(seen.any()) else octaves
    octaves = torch.where(seen, octaves.clamp(-OCTAVES, OCTAVES), 0.0)
    return torch.exp2(-exponent * octaves).to(DTYPE)


@dataclass(frozen=True, eq=False)
class Scaled(Curvature):
    """Sums whose channels were multiplied by ``factors`` float64 [K]."""

    factors: torch.Tensor

    def gram(self, block: int) -> torch.Tensor:
        gram = super().gram(block)
        own = self.factors[block * BLOCK : block * BLOCK + len(gram)]
        return gram * own * own.unsqueeze(1)


def transformed(statistics: LayerStatistics, scale: torch.Tensor) -> LayerStatistics:
    """What would have been seen of ``x · scale``.

    Exact are the largest magnitude, that of each channel, all second moments and the rows that were kept. The
    magnitudes of calls move as the largest one does; those of blocks and elements are counted anew in the kept rows,
    and move as the root mean square does where there are none.
    """
    channels, reservoir = statistics.channels, statistics.reservoir
    assert channels is not None
    factors = scale.double()
    amax = (channels.amax.double() * factors).float()
    largest, squares = float(amax.max()), channels.mean_square()
    spread = _ratio(float((squares * factors.square()).sum()), float(squares.sum())) ** 0.5
    blocks, elements = _moved(statistics.block_amax, spread), _moved(statistics.element_magnitude, spread)
    if reservoir is not None and len(reservoir.hashes):
        rows = reservoir.values() * scale
        reservoir = Reservoir(
            reservoir.hashes, reservoir.labels, (Held(rows),), tuple((0, row) for row in range(len(rows)))
        )
        # The largest magnitude is that of all rows, and must not be beyond the range of the few that were kept.
        blocks = _histogram(torch.cat((block_amax(rows.abs()).flatten().float(), amax.max().reshape(1))))
        elements = _histogram(rows.flatten().float())
    curvature = statistics.curvature
    if curvature is not None:
        curvature = Scaled(curvature.rows, curvature.features, curvature.parts, factors)
    return replace(
        statistics,
        amax=largest,
        call_amax=_moved(statistics.call_amax, _ratio(largest, statistics.amax)),
        block_amax=blocks,
        element_magnitude=elements,
        channels=ChannelStatistics(channels.rows, amax, to_limbs(squares * channels.rows * factors.square())),
        curvature=curvature,
        reservoir=reservoir,
    )


def _ratio(after: float, before: float) -> float:
    return after / before if after > 0 and before > 0 else 1.0


def _moved(histogram: torch.Tensor, factor: float) -> torch.Tensor:
    """Counts int64 [641] of magnitudes that were all multiplied by ``factor``, to the nearest bin."""
    steps = round(float(torch.log2(torch.tensor(factor))) * BINS_PER_OCTAVE)
    places = torch.where(torch.arange(BINS) > 0, (torch.arange(BINS) + steps).clamp(1, BINS - 1), 0)
    return torch.zeros_like(histogram).index_add_(0, places, histogram)


def _histogram(magnitudes: torch.Tensor) -> torch.Tensor:
    return torch.bincount(bin_index(magnitudes), minlength=BINS)
