"""The running sums of one sampling on one device.

Layers that are always given the same input (q, k and v) have one set of sums between them, kept by the names
of all of them; a layer that sometimes shares its input and sometimes not has a part in several sets, which
`finish` adds up. Counting is put off until about a million sampled values have gathered, because a handful
of large operations is many times cheaper than hundreds of small ones. Nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .channel_sums import ChannelSums
from .counting import block_amax, histogram
from .coverage import SCHEDULE_BINS
from .detail import CURVATURE, SCALES
from .histogram import RAW_BINS, RAW_FINITE, fold, magnitude_bits
from .observers import Observation
from .reservoir import EMPTY, LABEL_BINS, Candidates, kept, row_hashes
from .statistics import PASSES, LayerStatistics

_GATHERED = 1 << 20
_GATHERED_CALLS = 4096
_CALL, _BLOCKS, _ELEMENTS = range(3)
_NO_VALUE = -math.inf
"""Stands for rows with NaN or infinities; its raw bin is an infinity's, which `fold` leaves out."""


@dataclass(frozen=True)
class Moment:
    """Which evaluation a call belongs to. bins: bool [16], true in the bin of its noise level; number: int64 [1],
    that bin; both on the sums' device. passes: 0 or 1 for each span of the batch.
    """

    bins: torch.Tensor
    number: torch.Tensor
    passes: tuple[int, ...]


@dataclass(slots=True)
class _Call:
    """One call that waits to be counted, of the set of layers with number ``group``."""

    group: int
    seen: Observation
    moment: Moment


class DeviceSums:
    """All sums on one device; memory is O(layers), whatever is observed.

    For G sets of layers, or up to twice as many, because tables grow by doubling: ``_counts`` 3 × int64 [G, 2048] by raw bin
    of a call's amax, blocks' amax and elements; ``_schedule`` float32 [2·G, 16], the amax in each part of the schedule, row
    2·group + pass; ``_nonfinite`` int64 [G], rows with NaN or infinities.

    The tensors are made outside inference mode: one born inside could not be changed outside.
    """

    def __init__(self, device: torch.device, detail: str = SCALES) -> None:
        self.device = device
        self._detail = detail
        self._groups: dict[tuple[str, ...], int] = {}
        self._calls: list[int] = []
        self._rows: list[int] = []
        self._features: list[int] = []
        self._details: list[ChannelSums | None] = []
        self._waiting: list[_Call] = []
        self._gathered = 0
        with torch.inference_mode(False):
            self._counts = [torch.zeros(0, RAW_BINS, dtype=torch.int64, device=device) for _ in range(3)]
            self._schedule = torch.zeros(0, SCHEDULE_BINS, dtype=torch.float32, device=device)
            self._nonfinite = torch.zeros(0, dtype=torch.int64, device=device)

    def add(self, seen: Observation, moment: Moment) -> None:
        """Add one call of the layers `seen.layers`. The observation must not be changed afterwards."""
        group = self._groups.get(tuple(seen.layers))
        if group is None:
            group = self._new_group(seen)
        self._calls[group] += 1
        self._rows[group] += seen.rows
        details = self._details[group]
        if details is not None:
            details.add(seen)
            seen.channel_amax = seen.square_sums = seen.products = None
        self._waiting.append(_Call(group, seen, moment))
        self._gathered += seen.sample.numel()
        if self._gathered >= _GATHERED or len(self._waiting) >= _GATHERED_CALLS:
            self._count()

    def finish(self) -> dict[tuple[str, ...], LayerStatistics]:
        """What was summed for each set of layers, on the host; out_features is left 0."""
        with torch.inference_mode(False), torch.no_grad():
            self._count()
            many = len(self._groups)
            raw = [count[:many].cpu() for count in self._counts]
            call_amax, block_amax, element_magnitude = (fold(count).unbind() for count in raw)
            elements = raw[_ELEMENTS][:, :RAW_FINITE].sum(1).tolist()
            schedule = self._schedule[: many * len(PASSES)].cpu().clone().view(-1, len(PASSES), SCHEDULE_BINS)
            largest = schedule.amax((1, 2)).tolist() if many else []
            nonfinite = self._nonfinite.tolist()
            found = {}
            for names, group in self._groups.items():
                details = self._details[group]
                channels, curvature, reservoir = details.finish() if details is not None else (None, None, None)
                found[names] = LayerStatistics(
                    in_features=self._features[group],
                    out_features=0,
                    calls=self._calls[group],
                    rows=self._rows[group],
                    elements=elements[group],
                    nonfinite=nonfinite[group],
                    amax=largest[group],
                    call_amax=call_amax[group],
                    block_amax=block_amax[group],
                    element_magnitude=element_magnitude[group],
                    schedule_amax=schedule[group],
                    channels=channels,
                    curvature=curvature,
                    reservoir=reservoir,
                )
            return found

    def _new_group(self, seen: Observation) -> int:
        group = self._groups[tuple(seen.layers)] = len(self._groups)
        self._calls.append(0)
        self._rows.append(0)
        self._features.append(seen.features)
        with torch.inference_mode(False):
            self._details.append(ChannelSums(seen, self.device) if self._detail != SCALES else None)
            if len(self._groups) > len(self._nonfinite):
                more = max(32, len(self._nonfinite))
                self._counts = [torch.cat((count, count.new_zeros(more, RAW_BINS))) for count in self._counts]
                self._schedule = torch.cat((self._schedule, self._schedule.new_zeros(2 * more, SCHEDULE_BINS)))
                self._nonfinite = torch.cat((self._nonfinite, self._nonfinite.new_zeros(more)))
        return group

    def _count(self) -> None:
        """Count everything that waits: calls of equally many rows together, samples of equal width together."""
        calls, self._waiting, self._gathered = self._waiting, [], 0
        by_rows: dict[tuple[int, int, tuple[int, ...]], list[_Call]] = {}
        by_width: dict[tuple[int, torch.dtype], list[_Call]] = {}
        for call in calls:
            seen = call.seen
            rows = 0 if seen.row_amax is None else seen.rows
            by_rows.setdefault((rows, seen.chunks, call.moment.passes), []).append(call)
            by_width.setdefault((seen.features, seen.sample.dtype), []).append(call)
        with torch.inference_mode(False), torch.no_grad():
            for (_, chunks, passes), together in by_rows.items():
                self._count_calls(together, chunks, passes)
            for together in by_width.values():
                self._count_samples(together)

    def _count_calls(self, calls: Sequence[_Call], chunks: int, passes: tuple[int, ...]) -> None:
        groups = self._index([call.group for call in calls])
        by_row = [call.seen.row_amax.to(torch.float32) for call in calls if call.seen.row_amax is not None]
        if by_row:
            amax = torch.stack(by_row)
            finite = amax < math.inf
            self._nonfinite.index_add_(0, groups, (~finite).sum(1))
            spans = torch.where(finite, amax, _NO_VALUE).view(len(calls), chunks, -1).amax(2)
        else:
            spans = torch.tensor([call.seen.spans for call in calls], dtype=torch.float32)
        raw = (spans.amax(1).view(torch.int32) >> 20) & (RAW_BINS - 1)
        self._counts[_CALL].view(-1).index_add_(0, groups * RAW_BINS + raw, torch.ones_like(groups))
        bins = torch.stack([call.moment.bins for call in calls])
        for number in set(passes):
            mine = [place for place, found in enumerate(passes) if found == number]
            largest = (spans if chunks == 1 else spans[:, mine]).amax(1).clamp(min=0)
            rows = (groups * len(PASSES) + number)[:, None].expand(-1, SCHEDULE_BINS)
            self._schedule.scatter_reduce_(0, rows, largest[:, None] * bins, "amax")

    def _count_samples(self, calls: Sequence[_Call]) -> None:
        used = sorted({call.group for call in calls})
        lengths = torch.tensor([len(call.seen.sample) for call in calls])
        of_row = torch.tensor([used.index(call.group) for call in calls]).repeat_interleave(lengths)
        sample = torch.cat([call.seen.sample for call in calls])
        bits, shift = magnitude_bits(sample)
        blocks = block_amax(bits)
        broken = blocks.amax(1) >= RAW_FINITE << shift
        if self.device.type != "cpu" or bool(broken.any()):
            bits.masked_fill_(broken[:, None], -1)
            blocks.masked_fill_(broken[:, None], -1)
        base = (of_row * RAW_BINS).to(torch.int32).to(self.device, non_blocking=True)[:, None]
        groups = self._index(used)
        for kind, found in ((_BLOCKS, blocks), (_ELEMENTS, bits)):
            raw = ((found >> shift) & (RAW_BINS - 1)) + base
            counted = histogram(raw.flatten(), len(used) * RAW_BINS).view(-1, RAW_BINS)
            self._counts[kind].index_add_(0, groups, counted)
        if self._detail == CURVATURE:
            self._keep_rows(calls, sample, broken)

    def _keep_rows(self, calls: Sequence[_Call], sample: torch.Tensor, broken: torch.Tensor) -> None:
        values = sample.to(torch.bfloat16)
        hashes = row_hashes(values).masked_fill(broken, EMPTY)
        lengths = [len(call.seen.sample) for call in calls]
        passes = torch.cat([_pass_of_rows(call) for call in calls]).to(self.device, non_blocking=True)
        bins = torch.cat([call.moment.number.expand(length) for call, length in zip(calls, lengths, strict=True)])
        labels = bins + passes * LABEL_BINS
        spans: dict[int, list[tuple[int, int]]] = {}
        at = 0
        for call, length in zip(calls, lengths, strict=True):
            spans.setdefault(call.group, []).append((at, at + length))
            at += length
        for group, mine in spans.items():
            details = self._details[group]
            assert details is not None
            found = [Candidates(values[a:b], hashes[a:b], labels[a:b]) for a, b in mine]
            found += [details.candidates] if details.candidates is not None else []
            details.candidates = kept(
                Candidates(
                    torch.cat([one.values for one in found]),
                    torch.cat([one.hashes for one in found]),
                    torch.cat([one.labels for one in found]),
                )
            )

    def _index(self, groups: Sequence[int]) -> torch.Tensor:
        return torch.tensor(groups, dtype=torch.int64).to(self.device, non_blocking=True)


def _pass_of_rows(call: _Call) -> torch.Tensor:
    """int64 [n]: 0 or 1 for each sampled row."""
    seen, passes = call.seen, call.moment.passes
    places = torch.arange(seen.first, seen.rows, seen.stride)
    if seen.chunks == 1:
        return torch.full_like(places, passes[0])
    return torch.tensor(passes)[places * seen.chunks // seen.rows]
