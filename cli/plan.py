"""`nvfp4-studio plan`: every decision of a conversion, before a byte is written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .options import add_options, calibration_of, options_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the checkpoint: a file, an index of shards or a folder")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import make_plan, open_source

    calibration = calibration_of(arguments)
    name = Path(arguments.calibration).name if arguments.calibration else None
    with open_source(arguments.source) as source:
        made = make_plan(source, options_of(arguments), calibration, name)
    print(json.dumps(made.to_json(), indent=1) if arguments.json else made.to_markdown())
    return 0
