"""The best format for every layer within a size, a speed or a quality, chosen by measured output error."""

from __future__ import annotations

from .budgets import Budget, parse_budget
from .curve import Curves, Point, curves
from .menu import Permitted
from .planning import BudgetedPlan, plan_budget, published_recipes, recipe_of
from .rules import permitted
from .selection import Selection, Totals, choose, totals_of, totals_of_plan

__all__ = [
    "Budget",
    "BudgetedPlan",
    "Curves",
    "Permitted",
    "Point",
    "Selection",
    "Totals",
    "choose",
    "curves",
    "parse_budget",
    "permitted",
    "plan_budget",
    "published_recipes",
    "recipe_of",
    "totals_of",
    "totals_of_plan",
]
