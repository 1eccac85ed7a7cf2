"""Which configurations are compared: recipes with roundings, one format for all layers of a target, budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..budget import parse_budget, permitted, published_recipes
from ..errors import PlanError
from ..formats import POLICIES, nvfp4
from ..pins import Pin
from ..planning.context import Context
from ..planning.layer_rules import decide_layer
from ..recipe import Recipe, with_pins
from ..recipe_file import load_recipe
from ..rounding import AUTO, check_rounding
from ..sensitivity import KEEP, Choice, choices_of
from ..sensitivity.choices import DEFAULT_POLICIES
from .simulated import SIMULATED

ALL = "all"
DEFAULT_FORMATS = ("nvfp4", "mxfp8", "float8_e4m3fn", "int8_tensorwise", *SIMULATED)


@dataclass(frozen=True)
class Asked:
    """What a sweep is to compare.

    ``recipes``: built-in names or .json files, () for the family's own. ``roundings``: keys of ``ROUNDINGS``, for every
    configuration with NVFP4 in it. ``formats``: policies and keys of ``SIMULATED``. ``targets``: ``all`` or parts of layers'
    names, to which each format is given alone. ``budgets``: see ``budget.parse_budget``.
    """

    recipes: tuple[str, ...] = ()
    roundings: tuple[str, ...] = (AUTO,)
    formats: tuple[str, ...] = DEFAULT_FORMATS
    targets: tuple[str, ...] = (ALL,)
    budgets: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises PlanError: a format, rounding or budget that there is not."""
        known = (*POLICIES, *SIMULATED)
        wrong = next((name for name in self.formats if name not in known), None)
        if wrong is not None:
            raise PlanError(f"There is no format {wrong[:40]!r}; choose among {', '.join(known)}.")
        for rounding in self.roundings:
            check_rounding(rounding)
        for budget in self.budgets:
            parse_budget(budget)


@dataclass(frozen=True)
class Configuration:
    """One of them. ``simulated``: a key of ``SIMULATED`` for the layers that ``recipe`` pins to NVFP4, "" for none.

    ``budget``: by which the formats are still to be chosen, "" for none.
    """

    name: str
    method: str
    target: str
    recipe: Recipe
    rounding: str = AUTO
    simulated: str = ""
    budget: str = ""


def configurations(context: Context, asked: Asked) -> list[Configuration]:
    """All configurations of one source, recipes first.

    Raises:
        PlanError: no such recipe, or a target that no layer bears.
    """
    found = []
    for named in asked.recipes or published_recipes(context.family):
        recipe = load_recipe(named)
        for rounding in asked.roundings if _has_nvfp4(context, recipe) else asked.roundings[:1]:
            name = f"{recipe.name}-{rounding}" if _has_nvfp4(context, recipe) else recipe.name
            found.append(Configuration(name, f"recipe {recipe.name}", "by its rules", recipe, rounding))
    for target in asked.targets:
        modules = _modules(context, target)
        for chosen in asked.formats:
            found += _of_format(context, chosen, target, modules, asked.roundings)
    for budget in asked.budgets:
        found.append(Configuration(budget, f"budget {budget}", "by measurement", context.recipe, budget=budget))
    return found


def choices_needed(context: Context, asked: Asked) -> tuple[Choice, ...]:
    """What must be measured so that every configuration can be predicted: the default formats and all that are asked for."""
    recipes = [load_recipe(named) for named in asked.recipes or published_recipes(context.family)]
    named = [rule.policy for recipe in recipes for rule in recipe.rules]
    pins = [pin for recipe in recipes for pin in recipe.layers.values()]
    named += [pin.policy for pin in pins]
    wanted = {*DEFAULT_POLICIES, *named, *asked.formats} & POLICIES.keys()
    # Where a layer was not seen enough for a method it gets the one that auto would give it.
    roundings = dict.fromkeys((AUTO, *asked.roundings, *(pin.rounding for pin in pins)))
    exponents = sorted({pin.pre_quant_exponent for pin in pins if pin.pre_quant_exponent})
    gain = any(pin.gain for pin in pins)
    return choices_of(sorted(wanted), [rounding for rounding in roundings if rounding], exponents, gain)


def _of_format(
    context: Context, chosen: str, target: str, modules: Sequence[str], roundings: Sequence[str]
) -> list[Configuration]:
    """One format for the modules of a target, everything else as the source has it."""
    policy = nvfp4.NAME if chosen in SIMULATED else chosen
    rules = permitted(context)
    pins = {module: Pin(KEEP) for module, policies in rules.items() if policies}
    pins |= {module: Pin(policy) for module in modules if policy in rules[module]}
    name = f"{chosen}-{target}"
    recipe = with_pins(context.recipe, pins, name=name, title=f"{chosen} for {target} layers.")
    if chosen in SIMULATED:
        return [Configuration(name, SIMULATED[chosen].title, target, recipe, simulated=chosen)]
    if chosen != nvfp4.NAME:
        return [Configuration(name, chosen, target, recipe)]
    return [Configuration(f"{name}-{rounding}", chosen, target, recipe, rounding) for rounding in roundings]


def _modules(context: Context, target: str) -> list[str]:
    """The modules of a target that may change at all."""
    found = [
        module for module, policies in permitted(context).items() if policies and (target == ALL or target in module)
    ]
    if not found and target == ALL:
        raise PlanError(
            f"The rules of recipe {context.recipe.name} let no layer of {context.source.path.name} change; there is nothing "
            "to compare."
        )
    if not found:
        raise PlanError(
            f"No layer that the rules let change has {target[:40]!r} in its name; name a part of one, or {ALL}."
        )
    return found


def _has_nvfp4(context: Context, recipe: Recipe) -> bool:
    """Whether the rounding matters; it does not for a recipe of which there is no plan."""
    inside = replace(context, recipe=recipe)
    try:
        return any(
            decide_layer(inside, layer).format == nvfp4.NAME
            for layer in context.recognised.layers.values()
            if context.part(layer.weight) == "diffusion_model" and (layer.is_fp8 or layer.is_plain)
        )
    except PlanError:
        return False
