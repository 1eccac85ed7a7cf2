"""`nvfp4-studio bench`: models side by side on a running ComfyUI server, in time and in pictures."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interrupt import Interrupt, Interrupted
from .progress import Bar
from .text import table

if TYPE_CHECKING:
    from .benching.run import Request, Result
    from .benching.schedule import Schedule

MAX_COUNT = 100_000
DEFAULT_COUNT = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="URL", required=True, help="a running ComfyUI")
    parser.add_argument("--workflow", metavar="JSON", required=True, help="a workflow saved with Export (API)")
    parser.add_argument(
        "--models",
        metavar="FILE",
        nargs="+",
        required=True,
        help="files that the workflow's loader lists; of a workflow with two loaders FILE,FILE",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt a line, # for comments; or builtin (default), or groups of it: builtin:portrait,text",
    )
    parser.add_argument(
        "-n", "--count", metavar="N", type=_whole, default=DEFAULT_COUNT, help="prompts, default %(default)s"
    )
    parser.add_argument(
        "--block",
        metavar="K",
        type=_whole,
        help="prompts before the next model is loaded, default 10, fewer below 50 prompts; a model's first image of each "
        "block has no warm time",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the order and of all seeds, default 0")
    parser.add_argument("--reference", metavar="FILE", help="the model to compare with, default the first")
    parser.add_argument(
        "--model-node", metavar="ID", action="append", default=[], help="exchange only this loader's model, of several"
    )
    parser.add_argument("--out", metavar="DIR", help="where everything goes, default nvfp4-bench")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    from .servers.errors import RequestError

    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise RequestError('Asking servers needs aiohttp: pip install "nvfp4-studio[standalone]".') from error
    from .benching.run import compare

    request = _request(arguments)
    with Interrupt() as interrupt, Bar() as bar:

        def announce(server: Mapping[str, Any], schedule: Schedule) -> None:
            if not arguments.json:
                bar.clear()
                print("\n".join(_described(server, schedule, request)), flush=True)

        def say(sentence: str) -> None:
            bar.clear()
            print(sentence, file=sys.stderr)

        result = asyncio.run(compare(request, interrupt, announce, say, bar))
    if result.found is None:
        raise Interrupted(
            f"Stopped after {result.done} of {result.total} generations, nothing is left on the server; the same command "
            f"continues, {request.out} holds what was made.",
            interrupt.status,
        )
    if arguments.json:
        print(json.dumps(result.found, indent=1))
    else:
        print("\n".join(_told(result.found, result)))
    return 1 if any(model["failed"] for model in result.found["models"]) else 0


def _request(arguments: argparse.Namespace) -> Request:
    from .benching.run import Request
    from .servers.errors import RequestError

    models = tuple(arguments.models)
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"--models {twice} is given twice.")
    if arguments.reference is not None and arguments.reference not in models:
        raise RequestError(f"--reference {arguments.reference}: choose one of {', '.join(models)}.")
    if arguments.count > MAX_COUNT:
        raise RequestError(f"-n {arguments.count}: at most {MAX_COUNT} prompts are possible; 20 to 100 are usual.")
    if arguments.block == 1 < arguments.count:
        raise RequestError("--block 1 would load a model for every image and leave no warm time: use 2 or more.")
    return Request(
        server=arguments.server,
        workflow=arguments.workflow,
        models=models,
        count=arguments.count,
        out=Path(arguments.out or "nvfp4-bench"),
        prompts=arguments.prompts,
        seed=arguments.seed,
        block=min(arguments.block, arguments.count) if arguments.block else None,
        reference=arguments.reference,
        loaders=tuple(arguments.model_node),
    )


def _described(server: Mapping[str, Any], schedule: Schedule, request: Request) -> list[str]:
    """What will be done, before it begins."""
    blocks = len(schedule.orders)
    return [
        server["hardware"]["meaning"],
        f"{len(request.models)} models, {request.count} prompts each, in {blocks} block{'s' if blocks > 1 else ''} of "
        f"{schedule.block_size}; each model is loaded {blocks} times, and its first image after that is its cold start.",
        *(f"{factor}: {', '.join(places)}" for factor, places in server["varied"].items()),
    ]


def _told(found: Mapping[str, Any], result: Result) -> list[str]:
    from .benching.page import QUALITY, TABLE, quality_rows, speed_rows

    lines = [table(TABLE, speed_rows(found))]
    rows = quality_rows(found)
    if rows:
        lines += ["", table(QUALITY, rows)]
    lines += ["", *found["notes"], f"Wrote {', '.join(str(path) for path in result.written)}"]
    return lines


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return number
