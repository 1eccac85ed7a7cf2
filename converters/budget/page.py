"""A budgeted plan as data and as a page: what was chosen, what recipes and other budgets give, what each layer costs."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from .curve import Curves
from .menu import Item, Option
from .planning import BudgetedPlan
from .selection import Selection, Totals


def to_json(made: BudgetedPlan) -> dict[str, Any]:
    """Everything but the plan itself, for programs. Ratios of error are of the model's relative squared error."""
    selection = made.selection
    return {
        "budget": str(selection.budget),
        "recipe": made.recipe.name,
        "exact": selection.exact,
        "gap": selection.gap,
        "ties": selection.ties,
        "influence_measured": selection.sensitivity.influence_measured,
        "file_bytes": made.plan.output_bytes,
        "source_bytes": made.plan.source_bytes,
        **made.curves.to_json(),
        "items": [_item_to_json(selection, item) for item in selection.items if len(item.options) > 1],
    }


def to_markdown(made: BudgetedPlan) -> str:
    """The page for people."""
    selection, plan, totals = made.selection, made.plan, made.selection.totals
    sensitivity = selection.sensitivity
    lines = [
        f"# Budget {selection.budget} for {plan.source}",
        "",
        f"- file: {_size(plan.output_bytes)}, {plan.output_bytes / max(1, plan.source_bytes):.3f} of the source",
        f"- predicted: {totals.speed:.2f} × FP8 ({sensitivity.kernels}), quality {_db(totals)} (the model's output over its error, as in --budget)",
        f"- {_optimum(selection)}",
        f"- measured with {sensitivity.calibration}; rows weighted: {sensitivity.weighting}; layers that share kernels "
        + ("have one format" if selection.ties else "are chosen one by one"),
        f"- layers: {', '.join(f'{count} {name}' for name, count in plan.count().items())}",
    ]
    if not sensitivity.influence_measured:
        lines.append(
            "- the influence of layers on the output was not measured: figures in dB are sums of the layers' own errors, "
            "good for comparing choices and far below what the output has"
        )
    return "\n".join([*lines, "", *_comparison(made.curves), *_layers(selection)]) + "\n"


def alternatives(item: Item, chosen: Option) -> list[Option]:
    """The other options of an item, least error first."""
    return sorted((option for option in item.options if option is not chosen), key=lambda option: option.error)


def chosen_option(selection: Selection, item: Item) -> Option:
    """The option that an item got."""
    first = item.layers[0].module
    return next(option for option in item.options if option.outcomes[0] is selection.chosen[first])


def _item_to_json(selection: Selection, item: Item) -> dict[str, Any]:
    chosen = chosen_option(selection, item)
    return {
        "layers": [layer.module for layer in item.layers],
        "policy": chosen.policy,
        "choices": {
            layer.module: outcome.choice.label for layer, outcome in zip(item.layers, chosen.outcomes, strict=True)
        },
        "bytes": chosen.bytes,
        "time": chosen.time,
        "error": chosen.error,
        "alternatives": [
            {
                "policy": option.policy,
                "more_bytes": option.bytes - chosen.bytes,
                "more_time": option.time - chosen.time,
                "more_error": option.error - chosen.error,
            }
            for option in alternatives(item, chosen)
        ],
    }


def _comparison(curves: Curves) -> list[str]:
    """Recipes with what a budget of the same size, and of the same speed, would give."""
    lines = ["| choice | layers and rest | × FP8 | predicted quality | best of this size | best of this speed |"]
    lines += ["|---|---|---|---|---|---|", f"| **this budget** | {_told(curves.chosen)} | | |"]
    for point in curves.recipes:
        best = (_db(totals) if totals else "" for totals in (point.best_of_size, point.best_of_speed))
        lines.append(f"| `{point.name}` | {_told(point.totals)} | {' | '.join(best)} |")
    return ["## Recipes and other budgets", "", *lines, ""]


def _layers(selection: Selection) -> list[str]:
    """What each choice costs and buys: the part of the error, and what the two neighbouring formats would change."""
    whole = selection.totals.error
    lines = [
        "| layers | format | part of the error | size | next closer | next smaller |",
        "|---|---|---|---|---|---|",
    ]
    kept: dict[str, int] = defaultdict(int)
    for item in selection.items:
        if len(item.options) == 1:
            kept[item.layers[0].fixed or "kept by the rules"] += len(item.layers)
            continue
        chosen = chosen_option(selection, item)
        others = alternatives(item, chosen)
        better = [option for option in others if option.error < chosen.error]
        closer = min(better, key=lambda option: (option.bytes, option.error), default=None)
        smaller = next((option for option in others if option.bytes < chosen.bytes), None)
        label = chosen.outcomes[0].choice.label if len(item.layers) == 1 else chosen.policy
        part = f"{chosen.error / whole:.2%}" if whole > 0 else "0 %"
        lines.append(
            f"| {', '.join(layer.module for layer in item.layers)} | {label} | {part} | {_size(chosen.bytes)} "
            f"| {_change(chosen, closer, whole)} | {_change(chosen, smaller, whole)} |"
        )
    lines.append("")
    lines += [f"- {count} layers have no choice: {why}" for why, count in kept.items()]
    return ["## What each choice costs and buys", "", *lines]


def _change(chosen: Option, other: Option | None, whole: float) -> str:
    if other is None:
        return ""
    error = f", error {(other.error - chosen.error) / whole:+.2%}" if whole > 0 else ""
    return f"{other.policy}: {(other.bytes - chosen.bytes) / 1e6:+.2f} MB{error}"


def _optimum(selection: Selection) -> str:
    least = "smallest file" if selection.budget.aspect == "quality" else "least error"
    if selection.exact:
        return f"no other choice within the budget has a lower predicted figure: the {least} is proven"
    return f"the {least} found; none can be more than {selection.gap:.2%} below (bound of the linear relaxation)"


def _told(totals: Totals) -> str:
    return f"{_size(totals.bytes)} | {totals.speed:.2f} | {_db(totals)}"


def _db(totals: Totals) -> str:
    return f"{totals.error_db:.1f} dB" if math.isfinite(totals.error_db) else "no error"


def _size(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count < 1e8 else f"{count / 1e9:.2f} GB"
