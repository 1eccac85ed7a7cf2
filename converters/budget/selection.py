"""The best choice of formats within a budget, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PlanError
from ..plan import Plan
from ..sensitivity import Choice, Outcome, Sensitivity, decibels, outcomes_of_plan
from .budgets import Budget
from .knapsack import Group, Indices, Numbers, Solution, solve
from .menu import Item, Permitted, menu

GRID = 1 << 40
"""Costs that are no whole numbers are counted in this part of the limit, with half of it for every item as room for
rounding: 1500 layers may go 10⁻⁹ beyond what was asked, and what is reached exactly is never refused."""
LEAST_ERROR = 1e-300
"""A quality that asks for less asks for no error at all."""


@dataclass(frozen=True)
class Totals:
    """Of a whole file: ``bytes`` without its header, ``speed`` as a multiple of the same model's in FP8, ``error``
    the predicted relative squared error of the model's output."""

    bytes: int
    speed: float
    error: float

    @property
    def error_db(self) -> float:
        """Higher is closer; infinite without any error."""
        return decibels(self.error)

    def to_json(self) -> dict[str, Any]:
        quality = self.error_db
        return {
            "bytes": self.bytes,
            "speed": round(self.speed, 6),
            "error": self.error,
            "quality_db": round(quality, 4) if math.isfinite(quality) else None,
        }


@dataclass(frozen=True)
class Selection:
    """An outcome for each module.

    ``bound``: no choice within the budget has less error (for a quality: fewer bytes). ``exact``: this one has no more.
    ``ties``: layers that share kernels have one format.
    """

    sensitivity: Sensitivity
    budget: Budget
    ties: bool
    items: tuple[Item, ...]
    chosen: Mapping[str, Outcome]
    totals: Totals
    value: float
    bound: float

    @property
    def exact(self) -> bool:
        return self.value <= self.bound

    @property
    def gap(self) -> float:
        """How much better a choice could be at most, as a part of what this one has; 0 for an exact one."""
        return 0.0 if self.exact else (self.value - self.bound) / self.value

    @property
    def choices(self) -> dict[str, Choice]:
        return {module: outcome.choice for module, outcome in self.chosen.items()}


def choose(
    sensitivity: Sensitivity,
    budget: Budget,
    *,
    permitted: Permitted | None = None,
    ties: bool = True,
    more_bytes: int = 0,
    source_bytes: int | None = None,
) -> Selection:
    """The formats with the least predicted error within a size or speed, or the smallest file of a quality.

    Args:
        permitted: what hard rules leave each module, see ``rules.permitted``; None for all that was measured.
        ties: give layers that share kernels one format.
        more_bytes: what the file has beyond ``sensitivity.bytes_of``, such as its header; may be negative.
        source_bytes: what relative sizes are a part of; None for the measured layers as they are and all else.

    Raises:
        PlanError: the budget cannot be kept; with the best that can.
        SensitivityError: nothing that could be chosen was measured of a layer.
    """
    items = menu(sensitivity, permitted, ties)
    problem = _Problem(sensitivity, items, budget, more_bytes, source_bytes)
    solution = problem.solve()
    if solution is None:
        raise PlanError(problem.impossible())
    chosen = outcomes_of(items, solution.chosen)
    return Selection(
        sensitivity=sensitivity,
        budget=budget,
        ties=ties,
        items=items,
        chosen=chosen,
        totals=totals_of(sensitivity, chosen),
        value=solution.value,
        bound=solution.bound,
    )


def best_within(sensitivity: Sensitivity, items: tuple[Item, ...], budget: Budget) -> Totals | None:
    """What the best choice within another budget would give, header apart; None when none keeps it."""
    solution = _Problem(sensitivity, items, budget, 0, None).solve()
    return None if solution is None else totals_of(sensitivity, outcomes_of(items, solution.chosen))


def totals_of(sensitivity: Sensitivity, chosen: Mapping[str, Outcome]) -> Totals:
    """Size, speed and error of a choice for every module."""
    return Totals(sensitivity.bytes_of(chosen), sensitivity.speed_of(chosen), sensitivity.error_of(chosen))


def totals_of_plan(sensitivity: Sensitivity, plan: Plan) -> Totals | None:
    """The same of a plan as it would be written, rounding and all; None when a layer of it was not measured so."""
    measured = outcomes_of_plan(sensitivity, plan)
    chosen = {module: outcome for module, outcome in measured.items() if outcome is not None}
    return totals_of(sensitivity, chosen) if len(chosen) == len(measured) else None


def outcomes_of(items: Sequence[Item], chosen: Sequence[int]) -> dict[str, Outcome]:
    """The outcome of each module when item ``i`` takes its option ``chosen[i]``."""
    return {
        layer.module: outcome
        for item, option in zip(items, chosen, strict=True)
        for layer, outcome in zip(item.layers, item.options[option].outcomes, strict=True)
    }


class _Problem:
    """One budget as a knapsack: what is spent, and what is to be least."""

    def __init__(
        self,
        sensitivity: Sensitivity,
        items: tuple[Item, ...],
        budget: Budget,
        more_bytes: int,
        source_bytes: int | None,
    ) -> None:
        self.sensitivity, self.items, self.budget, self.more_bytes = sensitivity, items, budget, more_bytes
        self.source_bytes = self._kept_bytes() if source_bytes is None else source_bytes

    def solve(self) -> Solution | None:
        if self.budget.aspect == "size":
            room = math.floor(self._most_bytes()) - self.sensitivity.other_bytes - self.more_bytes
            return solve([Group(self._bytes(item), self._errors(item)) for item in self.items], room)
        if self.budget.aspect == "speed":
            return self._on_grid(self._times, self._most_time(), self._errors)
        most = max(10 ** (-self.budget.limit / 10), LEAST_ERROR)
        return self._on_grid(self._errors, most, lambda item: self._bytes(item).astype(float))

    def impossible(self) -> str:
        """What can be had at best, in one sentence."""
        best = {"size": self._bytes, "speed": self._times, "quality": self._errors}[self.budget.aspect]
        ends = totals_of(self.sensitivity, outcomes_of(self.items, [int(np.argmin(best(item))) for item in self.items]))
        if self.budget.aspect == "size":
            least = ends.bytes + self.more_bytes
            offer = Budget("size", math.ceil(least / 1e6 * 100) * 1e4)
            if self.budget.relative:
                offer = Budget("size", math.ceil(1e4 * least / max(1, self.source_bytes)) / 1e4, relative=True)
            told = f"the smallest file that the rules allow has {least / 1e6:.2f} MB"
        elif self.budget.aspect == "speed":
            offer = Budget("speed", math.floor(ends.speed * 1000) / 1000)
            told = f"the fastest formats that the rules allow make the model {ends.speed:.3f} times as fast as FP8"
        else:
            offer = Budget("quality", math.floor(ends.error_db * 100) / 100)
            told = f"the closest file that the rules allow is predicted to have {ends.error_db:.2f} dB"
        return f"The budget {self.budget} cannot be kept: {told}; ask for {offer}."

    def _on_grid(
        self, costs: Callable[[Item], Numbers], limit: float, value: Callable[[Item], Numbers]
    ) -> Solution | None:
        if limit <= 0:
            return None
        units = [np.rint(np.minimum(costs(item) / limit, 2) * GRID).astype(np.int64) for item in self.items]
        groups = [Group(cost, value(item)) for cost, item in zip(units, self.items, strict=True)]
        return solve(groups, GRID + len(groups) // 2 + 1)

    def _most_bytes(self) -> float:
        return self.budget.limit * self.source_bytes if self.budget.relative else self.budget.limit

    def _kept_bytes(self) -> int:
        return self.sensitivity.other_bytes + sum(layer.kept.bytes for layer in self.sensitivity.layers)

    def _most_time(self) -> float:
        """What the layers may take so that the whole evaluation has the speed."""
        fp8 = self.sensitivity.other_time + math.fsum(layer.fp8_time for layer in self.sensitivity.layers)
        return fp8 / self.budget.limit - self.sensitivity.other_time

    def _bytes(self, item: Item) -> Indices:
        return np.array([option.bytes for option in item.options], dtype=np.int64)

    def _times(self, item: Item) -> Numbers:
        return np.array([option.time for option in item.options])

    def _errors(self, item: Item) -> Numbers:
        return np.array([option.error for option in item.options])
