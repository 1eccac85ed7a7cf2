"""What is kept of a Linear's input: observe, merge, finish.

Nothing here waits for the device. An observation is a handful of small tensors on the input's own device;
they are added to accumulators on that device, and only `finish` brings numbers to the host. On CPU counting
costs about 1.5 ns per element (bfloat16, one thread), most of it the element histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .histogram import RAW_BINS, RAW_FINITE, fold, magnitude_bits
from .statistics import SCHEDULE_BINS, LayerStatistics

BLOCK = 16
"""Neighbouring channels that share one NVFP4 block scale."""

_CALL, _BLOCKS, _ELEMENTS = range(3)
_CHUNK_CPU = 1 << 19
"""Elements handled at once: small enough for the temporaries to stay in a core's cache."""
_CHUNK_DEVICE = 1 << 23
"""Elements handled at once on a GPU: bounds the int64 indices that scatter_add_ needs to 64 MiB."""
_COPIES = 64


@dataclass(frozen=True)
class Observation:
    """What one call of one input adds to a layer's statistics; shared by all layers given this input.

    counts: int64 [3, 2048], raw bins of the call's amax, of the block amax and of the elements.
    amax: float32 [1], largest finite magnitude, 0 when there is none. rows: length of the leading dimensions.
    """

    counts: torch.Tensor
    amax: torch.Tensor
    rows: int
    features: int


@torch.no_grad()
def observe(values: torch.Tensor) -> Observation | None:
    """Measure an input [..., K] of any float dtype, or None when it has no elements or no channels.

    Blocks are 16 neighbouring channels of one row; a ragged tail is a block of its own. NaN and infinities
    are counted in the element row's raw bins from RAW_FINITE on and take no part in anything else.
    """
    if values.dim() == 0 or values.numel() == 0 or not values.dtype.is_floating_point:
        return None
    features = values.shape[-1]
    rows = values.detach().reshape(-1, features)
    device = rows.device
    chunk = max(1, (_CHUNK_CPU if device.type == "cpu" else _CHUNK_DEVICE) // features)
    counts = torch.zeros(3, RAW_BINS, dtype=torch.int64, device=device)
    largest: torch.Tensor | None = None
    shift = 0
    for part in torch.split(rows, chunk):
        bits, shift = magnitude_bits(part)
        finite = _without_nonfinite(bits, shift, counts[_ELEMENTS])
        blocks = _block_amax(finite)
        _count(counts[_BLOCKS], (blocks >> shift) & (RAW_BINS - 1))
        top = blocks.amax()
        largest = top if largest is None else torch.maximum(largest, top)
    assert largest is not None
    largest = largest.reshape(1)
    _count(counts[_CALL], (largest >> shift) & (RAW_BINS - 1))
    amax = largest.clamp(min=0)
    amax = amax.view(torch.bfloat16).float() if shift == 4 else amax.view(torch.float32)
    return Observation(counts, amax, rows.shape[0], features)


class LayerObserver:
    """Accumulates one layer's observations on one device in 49 KiB, however many there are.

    The accumulators are made outside inference mode: a tensor born inside could not be changed outside.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.inference_mode(False):
            self._counts = torch.zeros(3, RAW_BINS, dtype=torch.int64, device=device)
            self._schedule_amax = torch.zeros(SCHEDULE_BINS, dtype=torch.float32, device=device)
        self._calls = 0
        self._rows = 0

    @torch.no_grad()
    def observe(self, seen: Observation, schedule_bin: torch.Tensor) -> None:
        """Add one call. `schedule_bin`: bool [16] on the same device, true at the call's noise level."""
        self._counts.add_(seen.counts)
        self._schedule_amax.copy_(torch.maximum(self._schedule_amax, seen.amax * schedule_bin))
        self._calls += 1
        self._rows += seen.rows

    def finish(self, in_features: int, out_features: int) -> LayerStatistics:
        """Bring the sums to the host; may be called at any time, and observing may go on afterwards."""
        with torch.inference_mode(False), torch.no_grad():
            raw = self._counts.cpu()
            folded = fold(raw)
            schedule = self._schedule_amax.cpu().clone()
            return LayerStatistics(
                in_features=in_features,
                out_features=out_features,
                calls=self._calls,
                rows=self._rows,
                elements=int(raw[_ELEMENTS, :RAW_FINITE].sum()),
                nonfinite=int(raw[_ELEMENTS, RAW_FINITE:].sum()),
                amax=float(schedule.max()),
                call_amax=folded[_CALL].clone(),
                block_amax=folded[_BLOCKS].clone(),
                element_magnitude=folded[_ELEMENTS].clone(),
                schedule_amax=schedule,
            )


def _without_nonfinite(bits: torch.Tensor, shift: int, element_counts: torch.Tensor) -> torch.Tensor:
    """Count the elements; return the bits with -1 in the place of NaN and infinities.

    On CPU the replacing is skipped when the count shows that there is nothing to replace; on a GPU looking
    at the count would wait for the device, so the replacing is always done.
    """
    before = element_counts[RAW_FINITE:].sum() if bits.device.type == "cpu" else None
    _count(element_counts, bits >> shift)
    if before is not None and bool(element_counts[RAW_FINITE:].sum() == before):
        return bits
    return torch.where(bits >= RAW_FINITE << shift, -1, bits)


def _block_amax(bits: torch.Tensor) -> torch.Tensor:
    """Largest of each 16 neighbouring columns of int [R, K]: int [R * ceil(K/16)], -1 for a block of none."""
    whole = bits.shape[1] // BLOCK * BLOCK
    parts = []
    if whole:
        parts.append(bits[:, :whole].reshape(bits.shape[0], -1, BLOCK).amax(-1).flatten())
    if whole < bits.shape[1]:
        parts.append(bits[:, whole:].amax(-1))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _count(into: torch.Tensor, raw: torch.Tensor) -> None:
    """Add the occurrences of each raw bin number to int64 [2048]. Exact and deterministic on every device.

    bincount is the fastest on CPU but reads its result's length back on CUDA, so integer atomics are used
    there. A masked -1 has become 2047, a raw bin of NaN, which `fold` leaves out.
    """
    if raw.device.type == "cpu":
        into += torch.bincount(raw.flatten(), minlength=RAW_BINS)
    else:
        _count_by_atomics(into, raw)


def _count_by_atomics(into: torch.Tensor, raw: torch.Tensor) -> None:
    """The same without waiting for the device.

    Activations crowd into a few dozen bins, and atomics on one address take turns; neighbouring elements
    therefore add to different copies of the histogram (up to 64, 1 MiB), which are summed at the end.
    """
    copies = math.gcd(raw.numel(), _COPIES)
    index = raw.reshape(-1, copies).to(torch.int64)
    if copies > 1:
        index += torch.arange(0, copies * RAW_BINS, RAW_BINS, device=raw.device)
    index = index.flatten()
    counts = torch.zeros(copies * RAW_BINS, dtype=torch.int64, device=raw.device)
    counts.scatter_add_(0, index, torch.ones((), dtype=torch.int64, device=raw.device).expand_as(index))
    into += counts.view(copies, RAW_BINS).sum(0)
