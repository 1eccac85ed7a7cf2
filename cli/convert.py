"""`nvfp4-studio convert`: the conversion, with a progress bar and a Ctrl-C that leaves nothing behind."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .budget import add_budget_options, budgeted, check_budget_options, keep_recipe, write_budget
from .interrupt import Interrupt, Interrupted
from .options import add_options, calibration_of, options_of
from .progress import Bar
from .text import decibels, duration, size

if TYPE_CHECKING:
    from ..converters import Report

WARNINGS_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="the checkpoint: a file, an index of shards or a folder; it is only read"
    )
    parser.add_argument("target", metavar="DST", help="the file to write; it appears when it is complete and verified")
    add_options(parser)
    add_budget_options(parser)
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto (default: a GPU if there is one), cuda or cpu"
    )
    parser.add_argument(
        "--report", metavar="PATH", help="where the report goes: PATH.json, PATH.md, PATH-*.png; default: next to DST"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing DST")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from ..converters import Cancelled, ConversionError, convert, open_source, report_stem
    from ..converters.errors import TargetExists
    from ..converters.recipe_file import parse_recipe

    check_budget_options(arguments)
    stem = _report_stem(arguments.report, arguments.target) if arguments.report else report_stem(arguments.target)
    if not stem.parent.is_dir():
        raise ConversionError(f"The folder {stem.parent} does not exist; create it or choose another output.")
    if arguments.report and not arguments.overwrite:
        there = next((path for path in (_with(stem, ".json"), _with(stem, ".md")) if path.is_file()), None)
        if there is not None:
            raise ConversionError(f"The report {there} exists already; choose another --report or use --overwrite.")
    calibration, options, made = calibration_of(arguments), options_of(arguments), None
    if arguments.budget is not None and calibration is not None:
        with open_source(arguments.source) as source:
            made = budgeted(arguments, source, options, calibration, arguments.device)
        options = replace(options, recipe=made.recipe)
    with Interrupt() as interrupt, Bar() as bar:
        try:
            report = convert(
                arguments.source,
                arguments.target,
                options,
                calibration=calibration,
                calibration_name=Path(arguments.calibration).name if arguments.calibration else None,
                device=arguments.device,
                overwrite=arguments.overwrite,
                progress=bar,
                cancelled=interrupt,
            )
        except Cancelled as error:
            raise Interrupted(str(error), interrupt.status) from error
        except TargetExists as error:
            raise ConversionError(
                f"{arguments.target} exists already; choose another name or use --overwrite."
            ) from error
        except torch.OutOfMemoryError as error:
            raise ConversionError("The GPU's memory is full; nothing was written. Use --device cpu.") from error
    try:
        written = report.write(stem)
        written += write_budget(made, _with(stem, "-budget")) if made is not None else []
    except OSError as error:
        raise ConversionError(
            f"{arguments.target} is complete and verified, but its report {stem}.json cannot be written: "
            f"{error.strerror or error}."
        ) from error
    if made is None and report.plan.recipe_content:
        keep_recipe(arguments, parse_recipe(report.plan.recipe, report.plan.recipe_content))
    _tell(report, arguments.target, written)
    return 0


def _report_stem(path: str, target: str) -> Path:
    """PATH without the ending of one of the files that will be written; inside PATH when it is a folder."""
    from ..converters import report_stem

    stem = Path(path)
    if stem.is_dir():
        return stem / report_stem(target).name
    return stem.with_suffix("") if stem.suffix in (".json", ".md") else stem


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _tell(report: Report, target: str, written: list[Path]) -> None:
    facts = report.summary
    print(
        f"Wrote {target}: {size(facts['source_bytes'])} -> {size(facts['output_bytes'])} "
        f"({facts['ratio']:.2f} of the source) in {duration(facts['seconds'])}, verified."
    )
    print(
        f"Layers: {', '.join(f'{count} {name}' for name, count in facts['formats'].items())}. "
        f"{facts['main_format'] or 'All'} weights: mean SQNR "
        f"{decibels(facts['mean_sqnr_db'])}; worst layer {decibels(facts['worst_sqnr_db'])} in {facts['worst_layer']}."
    )
    for line in report.plan.measured_lines():
        print(f"Measured {line}.")
    print(f"Report: {', '.join(str(path) for path in written)}")
    for warning in report.plan.warnings[:WARNINGS_SHOWN]:
        print(f"Warning: {warning}", file=sys.stderr)
    if len(report.plan.warnings) > WARNINGS_SHOWN:
        print(f"… and {len(report.plan.warnings) - WARNINGS_SHOWN} more warnings in the report.", file=sys.stderr)
