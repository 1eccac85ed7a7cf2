"""Predict every configuration of a sweep from one measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ...calibration import Calibration
from ..budget import parse_budget, plan_budget
from ..errors import PlanError
from ..options import Options
from ..pipeline import Progress, never, no_progress
from ..planning.decide import context_of, make_plan
from ..sensitivity import KEEP, Choice, Outcome, Sensitivity, outcomes_of_plan
from ..source import Source
from .configurations import Asked, Configuration, configurations
from .evaluation import Row, SweepResult, evaluated, ranked
from .simulated import SIMULATED
from .simulating import Simulated, simulate


def sweep(
    source: Source,
    calibration: Calibration,
    sensitivity: Sensitivity,
    asked: Asked,
    *,
    options: Options | None = None,
    calibration_name: str = "calibration",
    device: torch.device | None = None,
    unfinished: Path | None = None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> SweepResult:
    """Compare configurations without writing any.

    Args:
        sensitivity: of this source and calibration, measured with ``configurations.choices_needed``.
        options: layout, input_scale, text encoders and the recipe whose rules hold for formats and budgets.
        device: where simulated formats are computed; None for the CPU.
        unfinished: where finished layers of simulated formats are kept for the next call with the same arguments.

    Raises:
        PlanError: something that is asked for does not exist.
        Cancelled: see there.
    """
    asked.check()
    options = options or Options()
    context = context_of(source, options, calibration)
    wanted = configurations(context, asked)
    formats = [name for name in SIMULATED if any(one.simulated == name for one in wanted)]
    simulated: Simulated = {}
    if formats:
        simulated = simulate(
            source,
            calibration,
            sensitivity,
            formats,
            options=options,
            device=device or torch.device("cpu"),
            unfinished=unfinished,
            progress=progress,
            cancelled=cancelled,
        )
    rows = [_source_row(source, sensitivity)]
    chosen_options: dict[str, Options] = {}
    left_out: dict[str, str] = {}
    for one in wanted:
        try:
            row, made = _row(source, calibration, calibration_name, sensitivity, options, one, simulated)
        except PlanError as error:
            left_out[one.name] = str(error)
            continue
        rows.append(row)
        if made is not None:
            chosen_options[one.name] = made
    return SweepResult(
        source=source.path.name,
        family=context.family.name,
        sensitivity=sensitivity,
        rows=ranked(rows),
        options=chosen_options,
        left_out=left_out,
    )


def _row(
    source: Source,
    calibration: Calibration,
    calibration_name: str,
    sensitivity: Sensitivity,
    options: Options,
    one: Configuration,
    simulated: Simulated,
) -> tuple[Row, Options | None]:
    """One prediction, and the options that would write it."""
    if one.budget:
        budget = parse_budget(one.budget)
        budgeted = plan_budget(source, options, calibration, calibration_name, sensitivity, budget)
        chosen: Mapping[str, Outcome] = budgeted.selection.chosen
        plan, made = budgeted.plan, replace(options, recipe=budgeted.recipe)
    else:
        made = replace(options, recipe=one.recipe, rounding=one.rounding)
        plan = make_plan(source, made, calibration, calibration_name)
        measured = outcomes_of_plan(sensitivity, plan, complete=True)
        # A layer whose format could not be measured counts as it is.
        chosen = {layer.module: measured[layer.module] or layer.kept for layer in sensitivity.layers}
    size = plan.output_bytes
    if one.simulated:
        changed = {module for module, outcome in chosen.items() if outcome.choice.policy != KEEP} & simulated.keys()
        packed = {module: simulated[module][one.simulated] for module in changed}
        size += sum(packed[module].bytes - chosen[module].bytes for module in changed)
        chosen = {**chosen, **packed}
    used = {outcome.choice.rounding for outcome in chosen.values()} - {""}
    row = evaluated(
        one.name,
        one.method,
        one.rounding if used and not one.budget else ", ".join(sorted(used)),
        one.target,
        sensitivity,
        chosen,
        size,
        source.size,
        simulated=bool(one.simulated),
    )
    return row, None if one.simulated else made


def _source_row(source: Source, sensitivity: Sensitivity) -> Row:
    kept = {
        layer.module: layer.outcome(Choice(KEEP)) or Outcome(Choice(KEEP), 0, 0.0, layer.fp8_time)
        for layer in sensitivity.layers
    }
    return evaluated("source", "as it is", "", "", sensitivity, kept, source.size, source.size)
