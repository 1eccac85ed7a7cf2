"""What is measured of a Linear's input, without waiting for the device.

Exact over all rows: the largest magnitude of each pass, from which calls, passes and noise bins follow; with
more detail also the largest magnitude, the sum of squares and the products of channels.

From a part of the rows: the histograms of blocks and elements, and the candidates for the reservoir. Of R
rows every s-th is taken, s = R / 4 but at most 256, beginning at a place that moves on with each evaluation.
Sampling rows costs the histograms nothing that matters: a percentile of 10^6 values is as good as one of
10^7, and the amax, which is one value, stays exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from .curvature import BLOCK
from .detail import CURVATURE, SCALES

STRIDE = 256
FEWEST = 4
_CHUNK_CPU = 1 << 20
"""Elements handled at once: bounds the temporaries to 4 MiB each."""
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


@dataclass(slots=True)
class Observation:
    """What one call of one input adds to the statistics of the layers that were given it.

    chunks: into how many equal spans of rows the passes of the batch divide it. spans: the largest magnitude
    of each, where the host knows it (CPU, all finite). row_amax: otherwise, that of each row, [R] in a dtype
    of the input's, NaN or inf for rows that hold such. sample: [n, K], its sampled rows, `first` and then
    each `stride`-th. channel_amax, square_sums: float32 [K], products: with more detail. layers: their names.
    """

    rows: int
    features: int
    device: torch.device
    chunks: int
    sample: torch.Tensor
    first: int
    stride: int
    spans: tuple[float, ...] | None = None
    row_amax: torch.Tensor | None = None
    channel_amax: torch.Tensor | None = None
    square_sums: torch.Tensor | None = None
    products: Products | None = None
    layers: list[str] = field(default_factory=list)


def observe(values: torch.Tensor, *, passes: int = 1, turn: int = 0, detail: str = SCALES) -> Observation | None:
    """Measure an input [..., K] of any float dtype, or None when it has no elements, no channels, or is sparse or nested.

    passes: how many passes the batch, its first dimension, is made of; when it does not divide, the whole
    call counts for all of them. turn: number of the evaluation, which moves the sampled rows.
    """
    if values.layout is not torch.strided or values.is_nested:
        return None
    size, shape = values.numel(), values.shape
    if not size or not shape or not values.is_floating_point():
        return None
    if values.requires_grad:
        values = values.detach()
    if values.itemsize not in (2, 4):
        values = values.to(torch.float32)
    features = shape[-1]
    count = size // features
    chunks = passes if passes > 1 and len(shape) > 1 and shape[0] % passes == 0 else 1
    stride = max(1, min(STRIDE, count // FEWEST))
    first = turn * 5 % stride
    device = values.device
    spans = _spans(values, chunks) if detail == SCALES and device.type == "cpu" else None
    # The pass over all rows has brought these few into the cache.
    found = Observation(count, features, device, chunks, _sample(values, first, stride), first, stride, spans)
    if spans is None:
        _observe_rows(values.reshape(-1, features), found, detail)
    return found


def _spans(values: torch.Tensor, chunks: int) -> tuple[float, ...] | None:
    """The largest magnitude of each span of the batch, None when one of them is NaN or infinite.

    For CPUs, where one pass over the data and a look are cheapest.
    """
    largest = []
    for span in values.chunk(chunks) if chunks > 1 else (values,):
        low, high = torch.aminmax(span)
        largest.append(max(-low.item(), high.item()))
    return _finite(largest)


def _finite(spans: list[float]) -> tuple[float, ...] | None:
    """The spans, None when one of them is NaN or infinite."""
    return tuple(spans) if all(map(math.isfinite, spans)) else None


def _observe_rows(rows: torch.Tensor, into: Observation, detail: str) -> None:
    if detail != SCALES:
        largest = _add_channels(rows, into, detail)
        if rows.is_cpu:
            into.spans = _finite(largest.amax(1).tolist())
    if into.spans is None:
        into.row_amax = torch.cat([_row_amax(part) for part in _pieces(rows)])


def _sample(values: torch.Tensor, first: int, stride: int) -> torch.Tensor:
    """Row `first` and then each `stride`-th of the rows of [..., K], copied: [n, K]."""
    features = values.shape[-1]
    if not values.is_contiguous():
        return values.reshape(-1, features)[first::stride].clone()
    many = (values.numel() // features - first + stride - 1) // stride
    # The same in one operation: it is the operations that cost, not the few rows.
    place = values.storage_offset() + first * features
    return torch.as_strided_copy(values, (many, features), (stride * features, 1), place)


def _add_channels(rows: torch.Tensor, into: Observation, detail: str) -> torch.Tensor:
    """Sums over the rows of what is kept of each channel; returns the largest magnitudes, float32 [chunks, K].

    They are the roots of the largest squares, which for 2**-63 < x < 2**64 are exactly x.
    """
    largest = torch.zeros(into.chunks, into.features, dtype=torch.float32, device=rows.device)
    for number, span in enumerate(rows.chunk(into.chunks)):
        for part in _pieces(span):
            values = part.to(torch.float32)
            squares = values.square()
            torch.maximum(largest[number], squares.amax(0), out=largest[number])
            if detail == CURVATURE:
                into.products = _products(values, into.products)
            else:
                sums = squares.sum(0)
                into.square_sums = sums if into.square_sums is None else into.square_sums.add_(sums)
    largest.sqrt_()
    into.channel_amax = largest.amax(0)
    if into.products is not None:
        into.square_sums = into.products.diagonal()
    return largest


def _pieces(rows: torch.Tensor) -> Sequence[torch.Tensor]:
    chunk = max(1, (_CHUNK_CPU if rows.is_cpu else _CHUNK_DEVICE) // rows.shape[1])
    return torch.split(rows, chunk) if len(rows) > chunk else (rows,)


def _row_amax(rows: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each row, [R] in their dtype.

    16-bit floats are compared by their bit patterns, which order like the magnitudes and are three times as
    fast to reduce; a NaN's is the largest of all.
    """
    pattern = _PATTERN.get(rows.dtype)
    return rows.abs().amax(1) if pattern is None else (rows.view(pattern) & 0x7FFF).amax(1).view(rows.dtype)


def _products(values: torch.Tensor, sums: Products | None) -> Products:
    whole = values.shape[1] // BLOCK * BLOCK
    blocks = values[:, :whole].view(len(values), -1, BLOCK).permute(1, 2, 0) if whole else values.new_zeros(0, BLOCK, 1)
    tail = values[:, whole:]
    with _without_autocast(values.device.type):
        if sums is None:
            return Products(torch.bmm(blocks, blocks.transpose(1, 2)), tail.T @ tail)
        sums.whole.baddbmm_(blocks, blocks.transpose(1, 2))
        if tail.numel():
            sums.tail.addmm_(tail.T, tail)
    return sums


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """In which products of float32 stay float32, whatever the sampler has switched on."""
    switched_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if switched_on else nullcontext()
