"""`nvfp4-studio kernels`: the tables of kernel speeds that times are predicted from, and one of one's own GPU."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .text import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--measure", metavar="JSON", help="time the kernels of this machine's GPU and write a table for --kernels"
    )
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..calibration.files import write_atomically
    from ..converters import PlanError
    from ..converters.kernels import KERNELS, available_tables
    from ..converters.kernels.timing import measure_table

    if arguments.measure:
        path = Path(arguments.measure)
        if path.suffix != ".json":
            raise PlanError(f"The table {path} must end in .json, by which --kernels knows it from a built-in one.")
        tables = [measure_table(path.stem, lambda line: print(line, file=sys.stderr))]
        write_atomically(path, (json.dumps(tables[0].to_json(), indent=2) + "\n").encode())
    else:
        tables = list(available_tables().values())
    if arguments.json:
        print(json.dumps([one.to_json() for one in tables], indent=1))
        return 0
    rows = [
        (
            one.name,
            one.gpu,
            *(f"{one.tflops[kind]:g}" if kind in one.tflops else "-" for kind in KERNELS),
            f"{one.bandwidth:g}",
        )
        for one in tables
    ]
    print(table(("table", "GPU", *(f"{kind} TFLOPS" for kind in KERNELS), "GB/s"), rows))
    for source in dict.fromkeys(f"{one.source}; {one.date}" for one in tables):
        print(source)
    return 0
