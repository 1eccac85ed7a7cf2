"""`nvfp4-studio verify`: is a converted file what its source promised, and how close are the weights?"""

from __future__ import annotations

import argparse
import json
import sys

from .interrupt import Interrupt, Interrupted
from .progress import Bar
from .text import decibels, table

WORST_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="the checkpoint that was converted")
    parser.add_argument("target", metavar="DST", help="the converted file")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..converters import Cancelled, verify

    with Interrupt() as interrupt, Bar() as bar:
        try:
            found = verify(arguments.source, arguments.target, progress=bar, cancelled=interrupt)
        except Cancelled as error:
            raise Interrupted("Cancelled; nothing was changed.", interrupt.status) from error
    if arguments.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        changed = sorted(
            (layer for layer in found.layers if layer.sqnr_db is not None), key=lambda layer: layer.sqnr_db or 0.0
        )
        rows = [
            (layer.name, layer.format, f"{layer.sqnr_db:.2f}", f"{layer.rel_rmse:.2%}", f"{layer.cosine:.5f}")
            for layer in changed[:WORST_SHOWN]
        ]
        print(f"{found.tensors} tensors, {len(changed)} layers changed, mean SQNR {decibels(found.mean_sqnr_db())}.")
        if rows:
            print(table(("worst layers", "format", "SQNR dB", "rel. RMSE", "cosine"), rows))
        print("Good: everything is as it should be." if not found.problems else f"{len(found.problems)} problems:")
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return 1 if found.problems else 0
