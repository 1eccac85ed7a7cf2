"""One run from request to file: look at the servers and the workflow, plan, drive, write the sum."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...calibration import save
from ...converters.sensitivity import beside, influence_summary, keep_beside
from .client import Server
from .driver import Driver
from .errors import RequestError, ServerError, Unreachable
from .factors import GUIDANCE, PROMPT, SEED, SIZE, STEPS, Found, find_factors
from .insertion import CALIBRATE, Calibrated, with_calibration
from .jobs import Plan, plan_jobs
from .journal import WorkFolder
from .pack import Pack, check_same, described_pack
from .prompts import BUILTIN, read_prompts
from .status import Status
from .workflow import Graph, NodeInfo, Prompt, read_workflow


@dataclass(frozen=True)
class Request:
    """What the command asks for. prompts None: the built-in ones, where the workflow has a prompt at all."""

    servers: tuple[str, ...]
    workflow: str
    name: str
    samples: int
    out: Path
    prompts: str | None = None
    seed: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    steps: tuple[int, ...] = ()
    guidance: tuple[float, ...] = ()
    detail: str | None = None
    influence: bool = False
    models: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """The work folder beside the output."""
        return self.out.with_name(f"{self.out.name}.work")

    def outputs(self, models: int) -> list[Path]:
        """One file, or for several models one each, numbered."""
        if models == 1:
            return [self.out]
        return [self.out.with_name(f"{self.out.stem}-{number}{self.out.suffix}") for number in range(1, models + 1)]


@dataclass
class Prepared:
    """What is settled before the first generation."""

    workflow: Calibrated
    found: Found
    places: Mapping[str, list[str]]
    plan: Plan
    reference: tuple[Server, Pack]
    digest: Mapping[str, Any]


@dataclass
class Result:
    """What came of it. counted: generations; written: files, empty when nothing was counted or it was stopped.

    influence: for each file written what was found beside it, in words, "" where nothing was.
    """

    prepared: Prepared
    counted: int = 0
    missing: Mapping[int, str] = field(default_factory=dict)
    servers: Sequence[Mapping[str, Any]] = ()
    written: Sequence[Path] = ()
    summaries: Sequence[str] = ()
    influence: Sequence[str] = ()
    stopped: bool = False


async def calibrate(
    request: Request,
    cancelled: Callable[[], bool],
    announce: Callable[[Prepared], None],
    status: Callable[[Sequence[str], int, int], Status] = Status,
) -> Result:
    """Carry out the request. `announce` is told the plan before it begins.

    Raises StudioError when the request cannot be carried out at all. Generations that failed everywhere, or for
    which no server was left, are `missing` in the result; what was counted is written nevertheless, and its work
    folder stays, so that the same command adds the rest.
    """
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Server(address)) for address in request.servers]
        names = [server.name for server in servers]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RequestError(f"--server {twice} is given twice.")
        prepared = await prepare(request, servers)
        models = len(prepared.workflow.nodes)
        outputs = request.outputs(models)
        written = [path for output in outputs for path in (output, beside(output))]
        existing = next((path for path in written if path.exists()), None)
        if existing is not None and not request.overwrite and not request.folder.exists():
            raise RequestError(f"{existing} exists already; choose another --out or add --overwrite.")
        announce(prepared)
        with WorkFolder(request.folder, prepared.digest, models) as folder:
            shown = status(names, request.samples, len(folder.done))
            driver = Driver(
                servers,
                prepared.plan.jobs,
                prepared.workflow,
                prepared.found,
                folder,
                name=request.name,
                detail=request.detail,
                influence=request.influence,
                reference=prepared.reference,
                status=shown,
            )
            try:
                await driver.run(cancelled)
            finally:
                shown.clear()
            result = Result(prepared, len(folder.done), driver.missing(), shown.described())
            result.stopped = bool(result.missing) and cancelled()
            if result.stopped:
                return result
            if folder.sums:
                found = list(zip(folder.sums, folder.influence, outputs, strict=True))
                for calibration, probes, path in found:
                    save(calibration, path)
                    keep_beside(probes, path)
                result.written = outputs
                result.summaries = [calibration.summary() for calibration in folder.sums]
                result.influence = [
                    influence_summary(probes, len(calibration.layers)) if probes else ""
                    for calibration, probes, _ in found
                ]
            if not result.missing:
                folder.remove()
            return result


async def prepare(request: Request, servers: Sequence[Server]) -> Prepared:
    """Ask the servers what they have, and settle workflow, factors and plan."""
    prompt = read_workflow(request.workflow)
    first, pack = await _reference(servers)
    graph = Graph(prompt, await _classes(first, prompt))
    workflow = with_calibration(graph, request.models)
    found = find_factors(graph)
    given = {PROMPT: request.prompts, SIZE: request.sizes, STEPS: request.steps, GUIDANCE: request.guidance}
    for factor, reason in found.absent.items():
        if given.get(factor):
            raise RequestError(f"The {factor} of this workflow cannot be varied: {reason}.")
    _check_detail(graph.classes[CALIBRATE], request.detail, first.name)
    if request.influence and _declared(graph.classes[CALIBRATE], "influence") is None:
        raise RequestError(f"--influence: the {CALIBRATE} of {first.name} measures none: update it.")
    prompts = [] if PROMPT in found.absent else read_prompts(request.prompts or BUILTIN)
    plan = plan_jobs(
        request.samples,
        request.seed,
        prompts,
        seeds=SEED not in found.absent,
        sizes=request.sizes,
        steps=request.steps,
        guidance=request.guidance,
    )
    digest = {
        "workflow": _digest(prompt),
        "prompts": _digest([prompt.text for prompt in prompts]),
        "name": request.name,
        "samples": request.samples,
        "seed": request.seed,
        "sizes": [list(size) for size in request.sizes],
        "steps": list(request.steps),
        "guidance": list(request.guidance),
        "detail": request.detail,
        "influence": request.influence,
        "models": list(request.models),
    }
    return Prepared(workflow, found, found.describe(graph), plan, (first, pack), digest)


async def _reference(servers: Sequence[Server]) -> tuple[Server, Pack]:
    """The first server that answers, and its pack. All that answer must have the same; those that do not may join."""
    answers = await asyncio.gather(*(described_pack(server) for server in servers), return_exceptions=True)
    there = []
    for server, answer in zip(servers, answers, strict=True):
        if isinstance(answer, Pack):
            there.append((server, answer))
        elif not isinstance(answer, Unreachable):
            raise answer
    if not there:
        raise ServerError(" ".join(str(answer) for answer in answers) + " Start a server, or correct the address.")
    for server, pack in there[1:]:
        check_same(server, pack, there[0])
    return there[0]


async def _classes(server: Server, prompt: Prompt) -> dict[str, NodeInfo]:
    found = {}
    for name in sorted({str(node["class_type"]) for node in prompt.values()} | {CALIBRATE}):
        info = await server.node(name)
        if info is None:
            raise RequestError(f"{server.name} does not know the workflow's node {name}: install its node pack there.")
        found[name] = info
    return found


def _check_detail(info: NodeInfo, detail: str | None, server: str) -> None:
    if detail is None:
        return
    spec = _declared(info, "detail")
    if spec is None:
        raise RequestError(f"--detail {detail}: the {CALIBRATE} of {server} has no levels of detail: update it.")
    choices = spec[0] if isinstance(spec[0], list) else spec[1].get("options", ())
    if detail not in choices:
        raise RequestError(f"--detail {detail}: choose from {', '.join(map(str, choices))}.")


def _declared(info: NodeInfo, name: str) -> Any:
    """How a class declares an input, None where it has none of this name."""
    inputs = info.get("input", {})
    return next((inputs[kind][name] for kind in ("required", "optional") if name in inputs.get(kind, {})), None)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
