"""`nvfp4-studio plan`: every decision of a conversion, before a byte is written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .budget import add_budget_options, budgeted, check_budget_options, keep_recipe, write_budget
from .interrupt import Interrupt, Interrupted
from .options import add_options, calibration_of, options_of
from .progress import Bar

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..converters import Plan, Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the checkpoint: a file, an index of shards or a folder")
    add_options(parser)
    add_budget_options(parser)
    parser.add_argument(
        "--out", metavar="STEM", help="write what a budget costs and buys: STEM.json, STEM.md, STEM.png"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import PlanError, open_source

    check_budget_options(arguments)
    if arguments.out and arguments.budget is None:
        raise PlanError("--out belongs to a budget; add --budget, or redirect what plan prints.")
    calibration = calibration_of(arguments)
    name = Path(arguments.calibration).name if arguments.calibration else None
    with open_source(arguments.source) as source:
        if arguments.budget is not None and calibration is not None:
            return _within_budget(arguments, source, calibration)
        made = _searched(arguments, source, calibration, name)
    print(json.dumps(made.to_json(), indent=1) if arguments.json else made.to_markdown())
    return 0


def _searched(arguments: argparse.Namespace, source: Source, calibration: Calibration | None, name: str | None) -> Plan:
    """The plan, after a search where one is asked for."""
    from ..converters import Cancelled, make_plan
    from ..converters.convert import chosen_device
    from ..converters.searching import with_pre_quant

    options, device = options_of(arguments), chosen_device("auto")
    with Interrupt() as interrupt, Bar() as bar:
        try:
            with with_pre_quant(
                source, options, calibration, device=device, progress=bar, cancelled=interrupt
            ) as found:
                keep_recipe(arguments, found.recipe)
                return make_plan(source, found, calibration, name)
        except Cancelled as error:
            raise Interrupted(str(error), interrupt.status) from error


def _within_budget(arguments: argparse.Namespace, source: Source, calibration: Calibration) -> int:
    from ..converters.budget.page import to_json, to_markdown

    made = budgeted(arguments, source, options_of(arguments), calibration, "auto")
    if arguments.out:
        write_budget(made, Path(arguments.out))
    if arguments.json:
        print(json.dumps({**made.plan.to_json(), "budget": to_json(made)}, indent=1, allow_nan=False))
    else:
        print(f"{to_markdown(made)}\n{made.plan.to_markdown()}")
    return 0
