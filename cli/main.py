"""The command `nvfp4-studio`: finds the verb, runs it, and turns errors into a sentence and an exit status.

Exit status: 0 the result is good; 1 an error or a result that is not good; 2 wrong usage; 130 Ctrl-C,
143 terminated. Nothing here imports torch, so that `--help`, `--version` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import __version__
from . import (
    bench,
    calibrate,
    calibration,
    card,
    convert,
    demo,
    inspect,
    kernels,
    plan,
    recipes,
    sensitivity,
    sweep,
    verify,
)
from .interrupt import Interrupted

GOOD, NOT_GOOD, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Verb:
    """One verb: how it is described, which arguments it takes, what it does (returning the exit status).

    own_help: the verb adds a --help of its own.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    own_help: bool = False


VERBS = {
    "inspect": Verb("what a checkpoint holds", inspect.add_arguments, inspect.run),
    "plan": Verb(
        "what a conversion would write; converts nothing, but a budget or a search measures first",
        plan.add_arguments,
        plan.run,
        own_help=True,
    ),
    "convert": Verb("convert a checkpoint to mixed NVFP4/FP8", convert.add_arguments, convert.run, own_help=True),
    "verify": Verb("compare a converted file with its source", verify.add_arguments, verify.run),
    "calibrate": Verb("generate on ComfyUI servers and collect statistics", calibrate.add_arguments, calibrate.run),
    "calibration": Verb(
        "show, compare, merge, import or export calibrations", calibration.add_arguments, calibration.run
    ),
    "card": Verb("a page about a converted model, to put beside it", card.add_arguments, card.run),
    "bench": Verb("compare models on a ComfyUI server, in time and pictures", bench.add_arguments, bench.run),
    "sensitivity": Verb(
        "measure what each format does to each layer's output", sensitivity.add_arguments, sensitivity.run
    ),
    "kernels": Verb("tables of kernel speeds, built-in and measured", kernels.add_arguments, kernels.run),
    "sweep": Verb("predict many configurations of one source in one table", sweep.add_arguments, sweep.run),
    "recipes": Verb("list the built-in recipes", recipes.add_arguments, recipes.run),
    "demo": Verb("the whole job on a small model of its own", demo.add_arguments, demo.run),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; `argv` defaults to the process's arguments."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show an arrow gets a question mark, not an exception.
            stream.reconfigure(errors="replace")
    words, parser = sys.argv[1:] if argv is None else argv, _parser()
    if not words:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        arguments = parser.parse_args(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away ("| head"). What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_GOOD
    return status


def _run(arguments: argparse.Namespace) -> int:
    from ..calibration.errors import StudioError

    try:
        return VERBS[arguments.verb].run(arguments)
    except Interrupted as stop:
        return _fail(str(stop), stop.status)
    except KeyboardInterrupt:
        return _fail("Interrupted.", INTERRUPTED)
    except StudioError as error:
        return _fail(str(error), NOT_GOOD)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}.", NOT_GOOD)


def _fail(sentence: str, status: int) -> int:
    print(f"nvfp4-studio: {sentence}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nvfp4-studio",
        description="Convert a diffusion transformer to mixed NVFP4/FP8 that ComfyUI's standard loaders read.",
        epilog="nvfp4-studio VERB --help tells the options of a verb.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nvfp4-studio {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        verb.add_arguments(
            verbs.add_parser(
                name,
                help=verb.help,
                description=f"{verb.help[0].upper()}{verb.help[1:]}.",
                allow_abbrev=False,
                add_help=not verb.own_help,
            )
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
