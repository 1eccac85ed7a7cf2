"""`nvfp4-studio demo`: calibrate, convert and compare with a small model that comes along."""

from __future__ import annotations

import argparse
from pathlib import Path

from .progress import Bar

DEFAULT_FOLDER = "nvfp4-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default=DEFAULT_FOLDER, help=f"output folder, default {DEFAULT_FOLDER}")


def run(arguments: argparse.Namespace) -> int:
    from ..demo.run import run_demo

    with Bar() as bar:

        def progress(done: int, total: int, label: str) -> None:
            bar(done, total, label)
            if done >= total:
                bar.clear()

        return run_demo(Path(arguments.out), progress)
