"""Which level of each factor each generation gets: balanced, pairs well spread, the same for the same seed.

Levels of a factor come in blocks: within each run of k generations, k being the number of its levels, every
level occurs once. So in any first part of the design the levels of a factor differ by at most one generation,
and a run that is stopped early is balanced too. Within the blocks the order is chosen so that every pair of
levels of two factors occurs about equally often: built row by row, then improved by exchanging two levels of a
block as long as that makes the pair counts more even (sum of squares, the usual measure of a nearly orthogonal
array). Exact orthogonal arrays exist for few sizes only and do not have this property for every number of rows.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence

MAX_SWEEPS = 20
"""Exchanging settles after three to six sweeps; the bound only guarantees an end."""

MAX_ROWS = 100_000


def assign(levels: Mapping[str, int], rows: int, seed: int) -> list[dict[str, int]]:
    """For each of `rows` generations the level, 0 to k-1, of every factor; `levels` gives each factor's k."""
    names = sorted(levels, key=lambda name: (levels[name], name))
    generator = random.Random(seed)
    columns: dict[str, list[int]] = {name: [] for name in names}
    pairs = _Pairs()
    left: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(rows):
        row: dict[str, int] = {}
        for name in names:
            if not left[name]:
                left[name] = list(range(levels[name]))
                generator.shuffle(left[name])
            # The first of the least costly: the block was shuffled, so ties fall by the seed.
            chosen = min(left[name], key=lambda level: sum(pairs.count(name, level, *other) for other in row.items()))
            left[name].remove(chosen)
            for other in row.items():
                pairs.add(name, chosen, *other, 1)
            row[name] = chosen
        for name, level in row.items():
            columns[name].append(level)
    _improve(columns, levels, pairs, rows)
    return [{name: columns[name][row] for name in levels} for row in range(rows)]


class _Pairs:
    """How often a level of one factor meets a level of another."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int, str, int]] = Counter()

    def count(self, name: str, level: int, other: str, its_level: int) -> int:
        return self._counts[self._key(name, level, other, its_level)]

    def add(self, name: str, level: int, other: str, its_level: int, number: int) -> None:
        self._counts[self._key(name, level, other, its_level)] += number

    @staticmethod
    def _key(name: str, level: int, other: str, its_level: int) -> tuple[str, int, str, int]:
        return (name, level, other, its_level) if name < other else (other, its_level, name, level)


def _improve(columns: dict[str, list[int]], levels: Mapping[str, int], pairs: _Pairs, rows: int) -> None:
    for _ in range(MAX_SWEEPS):
        improved = False
        for name, column in columns.items():
            size = min(levels[name], rows)
            if size < 2:
                continue
            others = [other for other in columns if other != name and levels[other] > 1]
            for start in range(0, rows, size):
                for first, second in itertools.combinations(range(start, min(start + size, rows)), 2):
                    a, b = column[first], column[second]
                    gain = 0
                    for other in others:
                        c, d = columns[other][first], columns[other][second]
                        if c != d:
                            gain += pairs.count(name, a, other, c) - pairs.count(name, b, other, c) - 1
                            gain += pairs.count(name, b, other, d) - pairs.count(name, a, other, d) - 1
                    if gain > 0:
                        _exchange(column, first, second, name, others, columns, pairs)
                        improved = True
        if not improved:
            return


def _exchange(
    column: list[int],
    first: int,
    second: int,
    name: str,
    others: Sequence[str],
    columns: Mapping[str, list[int]],
    pairs: _Pairs,
) -> None:
    for other in others:
        for row, old, new in ((first, column[first], column[second]), (second, column[second], column[first])):
            pairs.add(name, old, other, columns[other][row], -1)
            pairs.add(name, new, other, columns[other][row], 1)
    column[first], column[second] = column[second], column[first]


def balance(rows: Sequence[Mapping[str, int]], levels: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Fewest and most generations of a level ("size") and of a pair of levels ("size x steps")."""
    found = {}
    for name in levels:
        counts = Counter(row[name] for row in rows)
        found[name] = _extremes([counts[level] for level in range(levels[name])])
    for name, other in itertools.combinations([name for name in levels if levels[name] > 1], 2):
        together = Counter((row[name], row[other]) for row in rows)
        every = itertools.product(range(levels[name]), range(levels[other]))
        found[f"{name} x {other}"] = _extremes([together[pair] for pair in every])
    return found


def _extremes(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)
