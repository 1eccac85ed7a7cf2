"""From what a page asks for to a plan: recipe, pins by hand, and a budget where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...calibration import Calibration
from ...converters import DEFAULT_ROUNDING, Options, Plan, Recipe, Source, detect_family, load_recipe, make_plan
from ...converters.budget import Curves, Totals, parse_budget, plan_budget, totals_of_plan
from ...converters.errors import SensitivityError
from ...converters.pins import Pin
from ...converters.recipe import with_pins
from ...converters.rounding import OFF
from ...converters.sensitivity import Sensitivity, source_fingerprint
from .. import recipes
from ..guard import Refused
from ..recipes import AUTO
from . import calibrations, sensitivities
from .asked import Asked

BY_HAND = "pinned by hand"


@dataclass(frozen=True)
class Decided:
    """A plan and what it came from.

    ``recipe`` is the whole of it, ``base`` the chosen one with the pins by hand but without those of a budget.
    ``totals`` and ``curves`` are None where no sensitivity tells them.
    """

    plan: Plan
    recipe: Recipe
    base: Recipe
    calibration: Calibration | None
    sensitivity: Sensitivity | None
    totals: Totals | None
    curves: Curves | None


def decide(wanted: Asked, source: Source) -> Decided:
    """Decide every layer.

    Raises:
        Refused: a budget without a sensitivity, or with what it decides itself.
        PlanError, SensitivityError: see ``make_plan`` and ``plan_budget``.
    """
    calibration = calibrations.opened(wanted.calibration) if wanted.calibration else None
    sensitivity = sensitivities.opened(wanted.sensitivity) if wanted.sensitivity else None
    base = recipe_of(wanted, source)
    options = Options(
        recipe=base,
        rounding=wanted.rounding,
        input_scale=wanted.input_scale,
        layout=wanted.layout,
        text_encoder=wanted.text_encoder,
        pre_quant=wanted.pre_quant,
        gain=wanted.gain,
    )
    if sensitivity is not None:
        _check_same(sensitivity, source)
    if wanted.budget is not None:
        if sensitivity is None:
            raise Refused(
                400, "A budget is kept by measured errors: choose a sensitivity, or measure one with NVFP4 Sensitivity."
            )
        if wanted.rounding != DEFAULT_ROUNDING:
            raise Refused(
                400,
                f"A budget takes the rounding of least measured error in each layer; set rounding to {DEFAULT_ROUNDING}.",
            )
        if options.pre_quant != OFF or options.gain:
            raise Refused(
                400,
                "A budget takes a pre_quant_scale and a gain where they were measured to be best; "
                f"set pre_quant to {OFF} and gain off.",
            )
        budget = parse_budget(wanted.budget)
        found = plan_budget(source, options, calibration, wanted.calibration, sensitivity, budget)
        return Decided(found.plan, found.recipe, base, calibration, sensitivity, found.selection.totals, found.curves)
    plan = make_plan(source, options, calibration, wanted.calibration)
    totals = totals_of_plan(sensitivity, plan) if sensitivity is not None else None
    return Decided(plan, base, base, calibration, sensitivity, totals, None)


def recipe_of(wanted: Asked, source: Source) -> Recipe:
    """The chosen recipe with the layers pinned by hand; a pin to None takes the recipe's own pin away."""
    chosen = wanted.recipe
    base = recipes.read(chosen) if chosen != AUTO else load_recipe(detect_family(source.tensors).default_recipe)
    if not wanted.pins:
        return base
    removed = {module for module, policy in wanted.pins.items() if policy is None}
    base = replace(base, layers={module: pin for module, pin in base.layers.items() if module not in removed})
    pins = {module: Pin(policy, reason=BY_HAND) for module, policy in wanted.pins.items() if policy is not None}
    return with_pins(base, pins, name=base.name, title=base.title)


def _check_same(sensitivity: Sensitivity, source: Source) -> None:
    """Raises SensitivityError when the sensitivity is of another checkpoint."""
    if sensitivity.fingerprint != source_fingerprint(source):
        raise SensitivityError(
            f"The sensitivity was measured on {sensitivity.source}, and {source.path.name} has other weights; "
            "choose another one or none."
        )
