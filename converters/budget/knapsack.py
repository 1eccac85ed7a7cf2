"""The multiple-choice knapsack: one option for each group, least value in all, at most so much cost.

Sinha and Zoltners, "The Multiple-Choice Knapsack Problem", Operations Research 27 (1979): the linear relaxation is
solved by taking the steps of each group's lower convex hull in the order of their slopes until the next does not
fit. Its slope λ is the price of a unit of cost; with it every option has a reduced value

    r = value + λ·cost − min over its group of (value + λ·cost)  ≥ 0,

and a whole choice of total cost c has the value  bound + Σ r + λ·(limit − c).  So an option with r above the
difference between a known choice and the bound is in no better choice; what remains after removing those is small,
and is solved by dynamic programming over states that no other state dominates. The result is exact unless more than
``MAX_STATES`` states would be needed; then those with the least reduced value are kept, and the bound on what was
left out is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_STATES = 5_000
"""A few milliseconds a group. Models of 1500 layers need a few hundred; only options whose values fall in proportion to
their costs, so that any choice is as good as any other, need more."""
ROUNDING = 1e-9
"""Relative room for rounding errors of sums: what differs by less is equal."""

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Options of which one is taken: whole-numbered ``costs`` int64 [K] and ``values`` float64 [K]."""

    costs: Indices
    values: Numbers


@dataclass(frozen=True)
class Solution:
    """``chosen``: for each group the index of its option. No choice has a value below ``bound``."""

    chosen: tuple[int, ...]
    cost: int
    value: float
    bound: float

    @property
    def exact(self) -> bool:
        return self.value <= self.bound


@dataclass(frozen=True)
class Step:
    """From one option of a group's hull to the next that costs more: ``slope`` is value saved per cost."""

    group: int
    option: int
    cost: int
    value: float
    slope: float


def solve(groups: Sequence[Group], limit: int, max_states: int = MAX_STATES) -> Solution | None:
    """The best choice that costs at most ``limit``; None when even the cheapest costs more.

    Args:
        groups: at least one option each, sums of costs below 2⁵³.
        limit: in the unit of the costs.
        max_states: of the dynamic programme, see above.
    """
    start, steps = hull_steps(groups)
    room = limit - _total(groups, start)
    if room < 0:
        return None
    chosen, first_left = _greedy(start, steps, room)
    incumbent = _value(groups, chosen)
    if first_left is None:
        return Solution(tuple(chosen), _total(groups, chosen), incumbent, incumbent)
    price = first_left.slope
    weighted = [group.values + price * group.costs for group in groups]
    bound = float(np.sum([options.min() for options in weighted])) - price * limit
    reduced = [options - options.min() for options in weighted]
    room_for_rounding = ROUNDING * (abs(incumbent) + price * limit)
    if incumbent - bound <= room_for_rounding:
        return Solution(tuple(chosen), _total(groups, chosen), incumbent, incumbent)
    allowed = incumbent - bound + room_for_rounding
    programme = _Programme(groups, reduced, limit, price, allowed, max_states)
    found = programme.run()
    if found is None or _value(groups, found) > incumbent:
        found = chosen
    value = _value(groups, found)
    proven = max(bound, bound + programme.least_left_out)
    if value - proven <= room_for_rounding:
        proven = value
    return Solution(tuple(found), _total(groups, found), value, proven)


def hull_steps(groups: Sequence[Group]) -> tuple[list[int], list[Step]]:
    """The cheapest choice, and all steps of the groups' lower convex hulls by falling slope.

    Taken in this order every beginning is the best choice of its own cost: the curve of budgets.
    """
    start: list[int] = []
    steps: list[Step] = []
    for number, group in enumerate(groups):
        hull = _hull(group)
        start.append(hull[0])
        for before, after in zip(hull, hull[1:], strict=False):
            cost = int(group.costs[after] - group.costs[before])
            value = float(group.values[before] - group.values[after])
            steps.append(Step(number, after, cost, value, value / cost))
    # Hulls are convex, so a stable sort leaves each group's steps in their order.
    return start, sorted(steps, key=lambda step: -step.slope)


def _hull(group: Group) -> list[int]:
    """Options on the lower convex hull of (cost, value), from the cheapest to the best."""
    hull: list[int] = []
    for option in np.lexsort((group.values, group.costs)):
        cost, value = int(group.costs[option]), float(group.values[option])
        if hull and value >= group.values[hull[-1]]:
            continue
        while len(hull) > 1:
            (c1, v1), (c2, v2) = ((int(group.costs[i]), float(group.values[i])) for i in hull[-2:])
            if (v1 - v2) * (cost - c2) > (v2 - value) * (c2 - c1):
                break
            hull.pop()
        hull.append(int(option))
    return hull


def _greedy(start: Sequence[int], steps: Sequence[Step], room: int) -> tuple[list[int], Step | None]:
    """Take all steps that fit, in order, and name the first that does not."""
    chosen = list(start)
    first_left: Step | None = None
    stopped = set()
    for step in steps:
        if step.group in stopped:
            continue
        if step.cost <= room:
            chosen[step.group] = step.option
            room -= step.cost
        else:
            first_left = first_left or step
            stopped.add(step.group)
    return chosen, first_left


class _Programme:
    """Dynamic programming over the groups in which more than one option is left."""

    def __init__(
        self,
        groups: Sequence[Group],
        reduced: Sequence[Numbers],
        limit: int,
        price: float,
        allowed: float,
        max_states: int,
    ) -> None:
        self.groups, self.reduced, self.limit, self.price = groups, reduced, limit, price
        self.allowed, self.max_states = allowed, max_states
        self.options = [np.flatnonzero(values <= allowed) for values in reduced]
        self.fixed = [int(left[0]) if len(left) == 1 else -1 for left in self.options]
        self.least_left_out = np.inf

    def run(self) -> list[int] | None:
        """For each group its option in the best choice; None when no choice is as good as what is known."""
        free = [number for number, option in enumerate(self.fixed) if option < 0]
        settled = [number for number, option in enumerate(self.fixed) if option >= 0]
        lows, highs = (
            [0, *np.cumsum([int(f(self.groups[n].costs[self.options[n]])) for n in reversed(free)])][::-1]
            for f in (np.min, np.max)
        )
        cost = np.array([sum(int(self.groups[n].costs[self.fixed[n]]) for n in settled)], dtype=np.int64)
        reduced = np.array([sum(float(self.reduced[n][self.fixed[n]]) for n in settled)])
        if not len(self._kept(cost, reduced, int(lows[0]), int(highs[0]))):
            return None
        trail: list[tuple[Indices, Indices]] = []
        for place, number in enumerate(free):
            left = self.options[number]
            cost = (cost[:, None] + self.groups[number].costs[left]).reshape(-1)
            reduced = (reduced[:, None] + self.reduced[number][left]).reshape(-1)
            kept = self._kept(cost, reduced, int(lows[place + 1]), int(highs[place + 1]))
            if not len(kept):
                return None
            cost, reduced = cost[kept], reduced[kept]
            trail.append((kept // len(left), left[kept % len(left)]))
        best = int(np.argmin(reduced - self.price * cost))
        chosen = list(self.fixed)
        for number, (parents, options) in zip(reversed(free), reversed(trail), strict=True):
            chosen[number] = int(options[best])
            best = int(parents[best])
        return chosen

    def _kept(self, cost: Indices, reduced: Numbers, low: int, high: int) -> Indices:
        """States that can still become the best choice; ``low`` and ``high``: what the groups to come will cost."""
        least = reduced + self.price * np.maximum(0, self.limit - cost - high)
        kept = np.flatnonzero((cost + low <= self.limit) & (least <= self.allowed))
        value = reduced[kept] - self.price * cost[kept]
        order = np.lexsort((value, cost[kept]))
        value = value[order]
        better = np.ones(len(order), dtype=bool)
        better[1:] = value[1:] < np.minimum.accumulate(value)[:-1]
        kept = kept[order[better]]
        if len(kept) > self.max_states:
            ranked = kept[np.argsort(least[kept], kind="stable")]
            self.least_left_out = min(self.least_left_out, float(least[ranked[self.max_states]]))
            kept = np.sort(ranked[: self.max_states])
        return kept


def _total(groups: Sequence[Group], chosen: Sequence[int]) -> int:
    return sum(int(group.costs[option]) for group, option in zip(groups, chosen, strict=True))


def _value(groups: Sequence[Group], chosen: Sequence[int]) -> float:
    return float(sum(float(group.values[option]) for group, option in zip(groups, chosen, strict=True)))
