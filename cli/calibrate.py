"""`nvfp4-studio calibrate`: generate on running ComfyUI servers over a balanced design, and add the statistics up."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interrupt import Interrupt, Interrupted
from .text import table

if TYPE_CHECKING:
    from .servers.run import Prepared, Request, Result

MAX_SAMPLES = 100_000
JOBS_SHOWN = 6
_NAME = re.compile(r"[\w][\w .+-]{0,99}")
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", metavar="URL", action="append", required=True, help="a running ComfyUI; repeat for more of them"
    )
    parser.add_argument("--workflow", metavar="JSON", required=True, help="a workflow saved with Export (API)")
    parser.add_argument("--name", metavar="NAME", required=True, help="name of the calibration")
    parser.add_argument("--samples", metavar="N", type=_whole, required=True, help="number of generations")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt a line, # for comments; or builtin (default), or groups of it: builtin:portrait,text",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the design and of all seeds, default 0")
    parser.add_argument("--sizes", metavar="WxH,…", type=_listed(_size), default=(), help="such as 512x512,768x1024")
    parser.add_argument("--steps", metavar="N,…", type=_listed(_whole), default=(), help="such as 8,12,20")
    parser.add_argument("--guidance", metavar="G,…", type=_listed(_number), default=(), help="such as 3,4.5")
    parser.add_argument(
        "--detail", metavar="D", help="what the servers' NVFP4Calibrate is to keep, where it offers that"
    )
    parser.add_argument(
        "--influence",
        action="store_true",
        help="also measure how much of each layer's error reaches the picture, for sensitivity and budgets: each step is "
        "computed twice",
    )
    parser.add_argument(
        "--model-node", metavar="ID", action="append", default=[], help="calibrate only this model of several"
    )
    parser.add_argument("--out", metavar="FILE", help="the calibration to write, default NAME.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--json", action="store_true", help="print design, servers and result as JSON")


def run(arguments: argparse.Namespace) -> int:
    from .servers.errors import RequestError

    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise RequestError('Calibrating on servers needs aiohttp: pip install "nvfp4-studio[standalone]".') from error
    from .servers.run import calibrate

    request = _request(arguments)

    def announce(prepared: Prepared) -> None:
        if not arguments.json:
            print("\n".join(_described(prepared, request)), flush=True)

    with Interrupt() as interrupt:
        result = asyncio.run(calibrate(request, interrupt, announce))
    if arguments.json:
        print(json.dumps(_as_data(result, request), indent=1))
    if result.stopped:
        raise Interrupted(
            f"Stopped after {result.counted} of {request.samples} generations, nothing is left on the servers; "
            f"the same command continues, {request.folder} holds what was counted.",
            interrupt.status,
        )
    if not arguments.json:
        print("\n".join(_told(result, request)))
    return 1 if result.missing else 0


def _request(arguments: argparse.Namespace) -> Request:
    from .servers.errors import RequestError
    from .servers.run import Request

    name = arguments.name
    if not _NAME.fullmatch(name) or name != name.strip(" ."):
        raise RequestError(f"--name {name!r}: use up to 100 letters, digits, dots, dashes and spaces.")
    if arguments.samples > MAX_SAMPLES:
        raise RequestError(f"--samples {arguments.samples}: at most {MAX_SAMPLES} are possible; 32 to 128 are usual.")
    out = Path(arguments.out or f"{name}.safetensors")
    if out.suffix != ".safetensors":
        raise RequestError(f"--out {out} must end in .safetensors.")
    if not out.parent.is_dir():
        raise RequestError(f"The folder {out.parent} does not exist; create it or choose another --out.")
    return Request(
        servers=tuple(arguments.server),
        workflow=arguments.workflow,
        name=name,
        samples=arguments.samples,
        out=out,
        prompts=arguments.prompts,
        seed=arguments.seed,
        sizes=arguments.sizes,
        steps=arguments.steps,
        guidance=arguments.guidance,
        detail=arguments.detail,
        influence=arguments.influence,
        models=tuple(arguments.model_node),
        overwrite=arguments.overwrite,
    )


def _described(prepared: Prepared, request: Request) -> list[str]:
    """What will be done, before it begins."""
    workflow = prepared.workflow
    how = "NVFP4Calibrate put behind" if workflow.inserted else "the workflow's own NVFP4Calibrate behind"
    lines = [f"{how} {', '.join(workflow.behind)}"]
    lines += [f"{factor}: {', '.join(places)}" for factor, places in prepared.places.items()]
    lines += [f"{factor} stays as it is: {reason}" for factor, reason in prepared.found.absent.items()]
    jobs = [job.described() for job in prepared.plan.jobs]
    lines += [
        f"design of {len(jobs)} generations, seed {request.seed}",
        *(f"  {line}" for line in prepared.plan.lines()),
    ]
    head = list(jobs[0])
    rows = [[_short(job.get(key, "")) for key in head] for job in jobs[:JOBS_SHOWN]]
    lines.append(table(head, rows))
    if len(jobs) > JOBS_SHOWN:
        lines.append(f"… {len(jobs) - JOBS_SHOWN} more; --json prints all of them at the end")
    return lines


def _told(result: Result, request: Request) -> list[str]:
    from ..converters.sensitivity import beside

    rows = [
        (server["url"], server["generations"], server["images"], _rate(server), server["state"])
        for server in result.servers
    ]
    lines = [table(("server", "generations", "images", "images a minute", "at the end"), rows)]
    reasons: dict[str, list[int]] = {}
    for number, why in result.missing.items():
        reasons.setdefault(why, []).append(number)
    lines += [f"Missing: {', '.join(map(str, numbers))}: {why}" for why, numbers in reasons.items()]
    behinds = result.prepared.workflow.behind if result.written else ()
    for path, summary, influence, behind in zip(
        result.written, result.summaries, result.influence, behinds, strict=True
    ):
        lines.append(f"Wrote {path}: {behind}: {summary}")
        if influence:
            lines.append(f"Wrote {beside(path)}: {influence}")
        elif request.influence:
            lines.append(f"No influence of {behind} was measured: another node wraps the model, as a cache does.")
    if result.missing and result.counted:
        lines.append(
            f"{result.counted} of {request.samples} generations are counted. The same command tries the others again; "
            f"{request.folder} holds what it needs."
        )
    return lines


def _as_data(result: Result, request: Request) -> dict[str, Any]:
    prepared = result.prepared
    return {
        "name": request.name,
        "written": [str(path) for path in result.written],
        "summaries": list(result.summaries),
        "influence": list(result.influence),
        "models": list(prepared.workflow.behind),
        "inserted": prepared.workflow.inserted,
        "generations": request.samples,
        "counted": result.counted,
        "stopped": result.stopped,
        "missing": {str(number): why for number, why in result.missing.items()},
        "servers": list(result.servers),
        "varied": dict(prepared.places),
        "left": dict(prepared.found.absent),
        "design": {
            "seed": request.seed,
            "levels": dict(prepared.plan.levels),
            "balance": {name: list(extremes) for name, extremes in prepared.plan.balance.items()},
            "jobs": [job.described() for job in prepared.plan.jobs],
        },
    }


def _rate(server: Mapping[str, Any]) -> float:
    return round(60 * server["images"] / server["seconds"], 1) if server["seconds"] else 0.0


def _short(value: object) -> object:
    return f"{value[:47]}…" if isinstance(value, str) and len(value) > 48 else value


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"{text} is no guidance")
    return number


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 768x1024")
    return int(found[1]), int(found[2])


def _listed(one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A type for argparse: values set apart by commas, each counted once."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers set apart by commas") from error

    return read
