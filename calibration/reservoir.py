"""A small sample of a layer's input rows, for measured output errors.

A bottom-k sketch: each row has a hash of its content, and the k rows with the smallest hashes are kept.
Which these are depends on the set of rows alone, so merging is exact, associative and commutative, and a
row that comes again and again (text at every step) is one row. Rows are kept in bfloat16, the dtype that
most models compute in: its rounding is 54 dB down, where NVFP4's is 20.

The rows are also in the layer's curvature sums. Among the 10^5 and more rows of a calibration worth
rounding with, 64 weigh less than a thousandth, so an error measured on them is as good as one on new rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from .stored import Held, Readable

ROWS = 64
EMPTY = torch.iinfo(torch.int64).max
"""Hash of a place without a row."""
_MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""SplitMix64's finalizer (0xbf58476d1ce4e5b9, 0x94d049bb133111eb) as signed integers."""
_GOLDEN = -0x61C8864680B583EB
"""SplitMix64's increment 0x9e3779b97f4a7c15 as a signed integer."""
LABEL_BINS = 16


@dataclass(frozen=True, eq=False)
class Reservoir:
    """At most 64 rows, by ascending hash. Their values are read when asked for.

    hashes: int64 [n], strictly ascending. labels: int64 [n], the noise bin plus 16 times the pass
    (0 conditional, 1 unconditional) in which a row was seen, the smallest when in several.
    parts: where the rows lie, each bfloat16 [m, K]; picks: (part, row) of each row.
    """

    hashes: torch.Tensor
    labels: torch.Tensor
    parts: tuple[Readable, ...]
    picks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, candidates: Candidates) -> Reservoir:
        """From candidates on any device, empty places left out."""
        used = candidates.hashes != EMPTY
        values = candidates.values[used].cpu().clone()
        picks = tuple((0, row) for row in range(len(values)))
        return cls(candidates.hashes[used].cpu().clone(), candidates.labels[used].cpu().clone(), (Held(values),), picks)

    def merged(self, other: Reservoir) -> Reservoir:
        """The rows with the smallest hashes of both; exact, associative and commutative."""
        picks = self.picks + tuple((part + len(self.parts), row) for part, row in other.picks)
        best: dict[int, tuple[int, tuple[int, int]]] = {}
        hashes, labels = (
            (*self.hashes.tolist(), *other.hashes.tolist()),
            (*self.labels.tolist(), *other.labels.tolist()),
        )
        for row_hash, label, pick in zip(hashes, labels, picks, strict=True):
            best[row_hash] = min(best.get(row_hash, (label, pick)), (label, pick))
        chosen = sorted(best)[:ROWS]
        parts = self.parts + other.parts
        kept_picks = [best[row_hash][1] for row_hash in chosen]
        used = sorted({part for part, _ in kept_picks})
        return Reservoir(
            torch.tensor(chosen, dtype=torch.int64),
            torch.tensor([best[row_hash][0] for row_hash in chosen], dtype=torch.int64),
            tuple(parts[part] for part in used),
            tuple((used.index(part), row) for part, row in kept_picks),
        )

    def values(self) -> torch.Tensor:
        """The rows: bfloat16 [n, K]. Raises CalibrationError when the file they lie in has changed."""
        parts = [part.read() for part in self.parts]
        return torch.stack([parts[part][row] for part, row in self.picks])

    def noise_bins(self) -> torch.Tensor:
        """int64 [n], 0..15."""
        return self.labels % LABEL_BINS

    def passes(self) -> torch.Tensor:
        """int64 [n], 0 conditional, 1 unconditional."""
        return self.labels // LABEL_BINS

    def same_as(self, other: Reservoir) -> bool:
        """Whether every number of both is identical."""
        return (
            torch.equal(self.hashes, other.hashes)
            and torch.equal(self.labels, other.labels)
            and torch.equal(self.values().view(torch.int16), other.values().view(torch.int16))
        )


@dataclass(frozen=True)
class Candidates:
    """Rows on their device: values bfloat16 [n, K]; hashes, labels int64 [n]; EMPTY hashes mark no row."""

    values: torch.Tensor
    hashes: torch.Tensor
    labels: torch.Tensor


def kept(candidates: Candidates) -> Candidates:
    """The 64 candidates with the smallest hashes, each hash once; empty places come last. No sync."""
    values, hashes, labels = candidates.values, candidates.hashes, candidates.labels
    # Sorting by label first makes the stable sort by hash put a row's smallest label in front.
    order = labels.argsort(stable=True)
    order = order[hashes[order].argsort(stable=True)]
    hashes, labels = hashes[order], labels[order]
    again = torch.zeros_like(hashes, dtype=torch.bool)
    again[1:] = hashes[1:] == hashes[:-1]
    hashes = hashes.masked_fill(again, EMPTY)
    place = hashes.argsort(stable=True)[:ROWS]
    return Candidates(values[order[place]], hashes[place], labels[place])


def row_hashes(values: torch.Tensor) -> torch.Tensor:
    """int64 [n] in 0 .. 2**63 - 2, from the bit patterns of bfloat16 [n, K].

    A multilinear hash modulo 2**64 with fixed odd random factors, then SplitMix64's finalizer, which brings
    the well-mixed upper bits to the lower ones. The same on every device: only integers are involved.
    """
    patterns = values.contiguous().view(torch.int16).to(torch.int64)
    mixed = _finalised((patterns * _factors(values.shape[-1]).to(values.device, non_blocking=True)).sum(-1))
    return mixed.bitwise_and(EMPTY).clamp(max=EMPTY - 1)


def _finalised(values: torch.Tensor) -> torch.Tensor:
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        values = (values ^ _shifted(values, shift)) * multiplier
    return values ^ _shifted(values, 31)


def _shifted(values: torch.Tensor, places: int) -> torch.Tensor:
    """A logical right shift, which int64 has not."""
    return (values >> places) & ((1 << (64 - places)) - 1)


@lru_cache(maxsize=32)
def _factors(width: int) -> torch.Tensor:
    """int64 [K] of SplitMix64's sequence, made odd."""
    with torch.inference_mode(False):
        return _finalised(torch.arange(1, width + 1) * _GOLDEN) | 1
