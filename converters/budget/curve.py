"""What every budget would buy, and where recipes stand beside that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plan import Plan
from ..sensitivity import Outcome, Sensitivity
from ..sensitivity.planned import policies_of
from .budgets import Budget
from .knapsack import Group, hull_steps
from .menu import Item
from .selection import GRID, Selection, Totals, best_within, outcomes_of, totals_of

MOST_POINTS = 200


@dataclass(frozen=True)
class Point:
    """A recipe's choice, and the best ones of the same size and of the same speed, None where rules forbid so much."""

    name: str
    totals: Totals
    best_of_size: Totals | None
    best_of_speed: Totals | None

    def to_json(self) -> dict[str, Any]:
        best = {"best_of_size": self.best_of_size, "best_of_speed": self.best_of_speed}
        told = {key: totals.to_json() if totals is not None else None for key, totals in best.items()}
        return {"name": self.name, **self.totals.to_json(), **told}


@dataclass(frozen=True)
class Curves:
    """Best choices from the smallest (fastest) file to the closest one, by size and by speed; and recipes beside them."""

    by_size: tuple[Totals, ...]
    by_speed: tuple[Totals, ...]
    chosen: Totals
    recipes: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "by_size": [totals.to_json() for totals in self.by_size],
            "by_speed": [totals.to_json() for totals in self.by_speed],
            "chosen": self.chosen.to_json(),
            "recipes": [point.to_json() for point in self.recipes],
        }


def curves(selection: Selection, recipes: Mapping[str, Plan]) -> Curves:
    """Both curves of a selection's options. ``recipes``: plans of the same source; those with a format that was not
    measured are left out."""
    sensitivity, items = selection.sensitivity, selection.items
    points = []
    for name, plan in recipes.items():
        placed = best_of_formats(sensitivity, plan)
        if placed is not None:
            totals = totals_of(sensitivity, placed)
            of_size, of_speed = Budget("size", totals.bytes), Budget("speed", totals.speed)
            best = (best_within(sensitivity, items, budget) for budget in (of_size, of_speed))
            points.append(Point(name, totals, *best))
    return Curves(
        by_size=curve(sensitivity, items, "size"),
        by_speed=curve(sensitivity, items, "speed"),
        chosen=selection.totals,
        recipes=tuple(points),
    )


def curve(sensitivity: Sensitivity, items: Sequence[Item], aspect: str) -> tuple[Totals, ...]:
    """Choices of which each is the best of its own ``size`` or ``speed``, at most ``MOST_POINTS`` evenly spread."""
    spent = [np.array([option.bytes if aspect == "size" else option.time for option in item.options]) for item in items]
    unit = 1.0 if aspect == "size" else (math.fsum(float(costs.max()) for costs in spent) or 1.0) / GRID
    groups = [
        Group(np.rint(costs / unit).astype(np.int64), np.array([option.error for option in item.options]))
        for costs, item in zip(spent, items, strict=True)
    ]
    chosen, steps = hull_steps(groups)
    shown = {round(place) for place in np.linspace(0, len(steps), min(MOST_POINTS, len(steps) + 1))}
    found = []
    for taken in range(len(steps) + 1):
        if taken:
            chosen[steps[taken - 1].group] = steps[taken - 1].option
        if taken in shown:
            found.append(totals_of(sensitivity, outcomes_of(items, chosen)))
    return tuple(found)


def best_of_formats(sensitivity: Sensitivity, plan: Plan) -> dict[str, Outcome] | None:
    """The measured outcome of every module in a plan's format, with the rounding of least noise.

    None when a layer's format was not measured. So a recipe is compared by its choice of formats alone;
    ``sensitivity.outcomes_of_plan`` tells what a plan itself would do.
    """
    decisions = {layer.module: layer for layer in plan.layers if layer.component == "diffusion_model"}
    found = {}
    for layer in sensitivity.layers:
        policies = policies_of(decisions[layer.module]) if layer.module in decisions else ()
        outcome = next((best for policy in policies for best in layer.of_policy(policy)), None)
        if outcome is None:
            return None
        found[layer.module] = outcome
    return found
