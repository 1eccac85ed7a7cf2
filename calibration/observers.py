"""What is measured of a Linear's input, without waiting for the device.

Exact over all rows: the largest magnitude of each row, from which calls, passes and noise bins follow; with
more detail also the largest magnitude, the sum of squares and the products of channels.

From a part of the rows: the histograms of blocks and elements, and the candidates for the reservoir. Of R
rows every s-th is taken, s = R / 8 but at most 16, beginning at a place that moves on with each evaluation.
Sampling rows costs the histograms nothing that matters: a percentile of 10^6 values is as good as one of
10^7, and the amax, which is one value, stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .curvature import BLOCK
from .detail import CURVATURE, SCALES

STRIDE = 16
FEWEST = 8
_CHUNK_CPU = 1 << 19
"""Elements handled at once: small enough for the temporaries to stay in a core's cache."""
_CHUNK_DEVICE = 1 << 23
"""Elements handled at once on a GPU: bounds the temporaries to 32 MiB each."""
_PATTERN = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


@dataclass
class Products:
    """Sums over rows, float32: whole [n, 128, 128] X^T X of each 128 channels, tail [w, w] of the rest."""

    whole: torch.Tensor
    tail: torch.Tensor

    def diagonal(self) -> torch.Tensor:
        """[K], the sums of squares."""
        return torch.cat((self.whole.diagonal(dim1=1, dim2=2).flatten(), self.tail.diagonal()))


@dataclass
class Observation:
    """What one call of one input adds to the statistics of the layers that were given it.

    row_amax: [R] in a float dtype of the input's, NaN or inf for rows that hold such. chunks: into how many
    equal spans of rows the passes of the batch divide it. sample: [n, K], its sampled rows, `first` and then
    each `stride`-th. channel_amax, square_sums: float32 [K], products: with more detail. layers: their names.
    """

    rows: int
    features: int
    row_amax: torch.Tensor
    chunks: int
    sample: torch.Tensor
    first: int
    stride: int
    channel_amax: torch.Tensor | None = None
    square_sums: torch.Tensor | None = None
    products: Products | None = None
    layers: list[str] = field(default_factory=list)


@torch.no_grad()
def observe(values: torch.Tensor, *, passes: int = 1, turn: int = 0, detail: str = SCALES) -> Observation | None:
    """Measure an input [..., K] of any float dtype, or None when it has no elements or no channels.

    passes: how many passes the batch, its first dimension, is made of; when it does not divide, the whole
    call counts for all of them. turn: number of the evaluation, which moves the sampled rows.
    """
    if values.dim() == 0 or values.numel() == 0 or not values.dtype.is_floating_point:
        return None
    features = values.shape[-1]
    rows = values.detach().reshape(-1, features)
    if rows.dtype.itemsize not in (2, 4):
        rows = rows.to(torch.float32)
    count = rows.shape[0]
    divides = values.dim() > 1 and values.shape[0] % passes == 0
    stride = max(1, min(STRIDE, count // FEWEST))
    first = turn * 5 % stride
    found = Observation(
        rows=count,
        features=features,
        row_amax=rows[:0, 0],
        chunks=passes if divides else 1,
        sample=rows[first::stride].clone(),
        first=first,
        stride=stride,
    )
    chunk = max(1, (_CHUNK_CPU if rows.device.type == "cpu" else _CHUNK_DEVICE) // features)
    parts = [_measure(part, found, detail) for part in (torch.split(rows, chunk) if count > chunk else (rows,))]
    found.row_amax = torch.cat(parts) if len(parts) > 1 else parts[0]
    if found.channel_amax is not None:
        found.channel_amax = _as_float(found.channel_amax, rows.dtype).to(torch.float32)
    if found.products is not None:
        found.square_sums = found.products.diagonal()
    return found


def _measure(rows: torch.Tensor, into: Observation, detail: str) -> torch.Tensor:
    """Add a stretch of rows, and return the largest magnitude of each, [r] in their dtype.

    16-bit floats are compared by their bit patterns, which order like the magnitudes and are three times as
    fast to reduce; a NaN's is the largest of all.
    """
    pattern = _PATTERN.get(rows.dtype)
    magnitudes = rows.abs() if pattern is None else rows.view(pattern) & 0x7FFF
    if detail != SCALES:
        channel_amax = magnitudes.amax(0)
        before = into.channel_amax
        into.channel_amax = channel_amax if before is None else torch.maximum(before, channel_amax)
        values = rows.to(torch.float32)
        if detail == CURVATURE:
            into.products = _products(values, into.products)
        else:
            squares = values.square().sum(0)
            into.square_sums = squares if into.square_sums is None else into.square_sums.add_(squares)
    return _as_float(magnitudes.amax(1), rows.dtype)


def _products(values: torch.Tensor, sums: Products | None) -> Products:
    whole = values.shape[1] // BLOCK * BLOCK
    blocks = values[:, :whole].view(len(values), -1, BLOCK).permute(1, 2, 0) if whole else values.new_zeros(0, BLOCK, 1)
    tail = values[:, whole:]
    if sums is None:
        return Products(torch.bmm(blocks, blocks.transpose(1, 2)), tail.T @ tail)
    sums.whole.baddbmm_(blocks, blocks.transpose(1, 2))
    if tail.numel():
        sums.tail.addmm_(tail.T, tail)
    return sums


def _as_float(magnitudes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return magnitudes.view(dtype) if magnitudes.dtype != dtype else magnitudes
