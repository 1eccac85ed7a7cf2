"""From a source, its calibration and a budget to the recipe that keeps it."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace

from ...calibration import Calibration
from ..errors import PlanError, SensitivityError
from ..families import Family
from ..options import Options
from ..pins import MAX_REASON, Pin
from ..plan import Plan
from ..planning.context import Context
from ..planning.decide import context_of, make_plan
from ..recipe import Recipe, with_pins
from ..recipe_file import RECIPE_FOLDER
from ..sensitivity import KEEP, Sensitivity, decibels
from ..sensitivity.identity import source_fingerprint
from ..source import Source
from .budgets import Budget
from .curve import Curves, curves
from .menu import Permitted
from .rules import permitted
from .selection import Selection, choose

SMALLEST = Budget("quality", -1000.0)
"""Any error is good enough."""
TRIES = 4
"""What a file has beside its layers, the header above all, follows from the choice, and the choice from what that leaves:
a round or two settle it."""


@dataclass(frozen=True)
class BudgetedPlan:
    """The plan that keeps a budget, the choice behind it, and what other budgets and recipes would give."""

    plan: Plan
    recipe: Recipe
    selection: Selection
    curves: Curves


def plan_budget(
    source: Source,
    options: Options,
    calibration: Calibration | None,
    calibration_name: str | None,
    sensitivity: Sensitivity,
    budget: Budget,
    *,
    ties: bool = True,
    beyond_rules: bool = False,
) -> BudgetedPlan:
    """Choose every layer's format within a budget and plan the conversion.

    A size is that of the whole file with header, text encoders and VAE as ``options`` leave them.

    Args:
        options: the recipe among them says what is kept whatever is measured; see ``rules.permitted``.
        beyond_rules: layers that rules of the recipe keep may change too.
        calibration: the one that the sensitivity was measured with, or a later one of the same model; without one FP8
            layers are computed in full precision, closer and slower than was measured.

    Raises:
        PlanError: the budget cannot be kept, or would convert nothing; what ``make_plan`` raises.
        SensitivityError: the sensitivity is of another model.
    """
    if sensitivity.fingerprint != source_fingerprint(source):
        raise SensitivityError(
            f"The sensitivity was measured on {sensitivity.source}, and {source.path.name} has other weights; measure it anew."
        )
    context = context_of(source, options, calibration)
    rules = permitted(context, beyond_rules=beyond_rules)

    def chosen(wanted: Budget, more_bytes: int) -> Selection:
        return choose(sensitivity, wanted, permitted=rules, ties=ties, more_bytes=more_bytes, source_bytes=source.size)

    def planned(selection: Selection) -> tuple[Recipe, Plan]:
        if not _changes(selection):
            raise PlanError(f"{source.path.name} as it is keeps the budget {budget} best; there is nothing to convert.")
        recipe = recipe_of(selection, context.recipe, rules)
        return recipe, make_plan(source, replace(options, recipe=recipe), calibration, calibration_name)

    if budget.aspect != "size":
        selection = chosen(budget, 0)
        recipe, plan = planned(selection)
    else:
        limit = budget.limit * source.size if budget.relative else budget.limit
        smallest = chosen(SMALLEST, 0)
        # There is no plan that changes nothing; what it would have beside its layers the source tells.
        size = planned(smallest)[1].output_bytes if _changes(smallest) else source.size - _left_out(context)
        more = size - smallest.totals.bytes
        for _ in range(TRIES):
            selection = chosen(budget, more)
            recipe, plan = planned(selection)
            more = plan.output_bytes - selection.totals.bytes
            if plan.output_bytes <= limit:
                break
        else:
            raise PlanError(f"No plan for {source.path.name} keeps {budget} with its header; ask for a little more.")
    return BudgetedPlan(plan, recipe, selection, curves(selection, _plans_beside(context, calibration)))


def recipe_of(selection: Selection, base: Recipe, rules: Permitted) -> Recipe:
    """The recipe that gives every layer what was chosen: ``base`` with a pin on each layer that it could change.

    A layer that was not measured is pinned to what the source has.
    """
    pins = {module: _pin(selection, module) for module, policies in rules.items() if policies}
    title = f"Every layer's format chosen by measured output error ({selection.sensitivity.calibration}): {selection.budget}."
    return with_pins(base, pins, name=f"{base.name} within {selection.budget}", title=title)


def published_recipes(family: Family) -> list[str]:
    """The built-in recipes of a family: its default and those that bear its name."""
    names = [path.stem for path in sorted(RECIPE_FOLDER.glob("*.json"))]
    return [name for name in names if name == family.default_recipe or name.startswith(f"{family.name}-")]


def _changes(selection: Selection) -> bool:
    return any(choice.policy != KEEP for choice in selection.choices.values())


def _left_out(context: Context) -> int:
    """Bytes of what the layout leaves out."""
    return sum(info.nbytes for name, info in context.source.tensors.items() if not context.kept(name))


def _pin(selection: Selection, module: str) -> Pin:
    layer, outcome = selection.sensitivity.layer(module), selection.chosen.get(module)
    if layer is None or outcome is None:
        return Pin(KEEP, reason="not measured")
    error = decibels(layer.error(outcome))
    choice = outcome.choice
    measured = f"measured: {error:.1f} dB" if math.isfinite(error) else layer.fixed or "measured: no error"
    return Pin(choice.policy, choice.rounding, choice.pre_quant_exponent, choice.gain, measured[:MAX_REASON])


def _plans_beside(context: Context, calibration: Calibration | None) -> dict[str, Plan]:
    plans = {}
    for name in published_recipes(context.family):
        # A recipe that changes nothing in this source is no point to compare with.
        with contextlib.suppress(PlanError):
            plans[name] = make_plan(context.source, replace(context.options, recipe=name), calibration)
    return plans
