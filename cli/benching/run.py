"""One comparison from request to files: ask the server, plan, carry out, measure, write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...converters.errors import Cancelled
from ..servers.errors import RequestError
from ..servers.factors import PROMPT, SEED
from ..servers.prompts import BUILTIN, Prompt, read_prompts
from ..servers.workflow import Graph, NodeInfo, read_workflow
from ..servers.workflow import Prompt as Workflow
from ..text import one_line
from .asking import BenchServer
from .hardware import described_hardware, system_of
from .journal import Journal
from .loading import FOLDERS, PREVIEW, Loading, prepare_loading
from .output import write_outputs
from .result import make_result
from .runner import Runner
from .schedule import Schedule, make_schedule

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Request:
    """What the command asks for. count: generations with each model. reference: None for the first model."""

    server: str
    workflow: str
    models: tuple[str, ...]
    count: int
    out: Path
    prompts: str | None = None
    seed: int = 0
    block: int | None = None
    reference: str | None = None
    loaders: tuple[str, ...] = ()

    @property
    def reference_index(self) -> int:
        return self.models.index(self.reference) if self.reference else 0


@dataclass
class Result:
    """What came of it. found: the result's JSON, None when it was stopped. done, total: generations."""

    done: int
    total: int
    found: dict[str, Any] | None = None
    written: list[Path] = field(default_factory=list)


async def compare(
    request: Request,
    cancelled: Callable[[], bool],
    announce: Callable[[Mapping[str, Any], Schedule], None],
    say: Callable[[str], None],
    progress: Progress,
) -> Result:
    """Carry out the request, or the rest of it. `announce` is told what the server is and the schedule before it begins.

    A complete comparison is only measured and written again; that asks no server.
    """
    workflow = read_workflow(request.workflow)
    prompts = read_prompts(request.prompts or BUILTIN)
    with Journal(request.out, _digest(request, workflow, prompts)) as journal:
        if journal.server is None or len(journal.done) < request.count * len(request.models):
            async with BenchServer(request.server) as server:
                loading, files = await _loading(server, workflow, request, prompts)
                journal.begin(await _facts(server, loading, files))
                schedule = _schedule(request, journal, prompts)
                announce(journal.server or {}, schedule)
                runner = Runner(server, loading, files, schedule, journal, say=say, progress=progress)
                finished = await runner.run(cancelled)
            if not finished:
                return Result(len(journal.done), request.count * len(request.models))
        asked = {"prompts": _named(request.prompts), "seed": request.seed, "pictures": request.count}
        schedule = _schedule(request, journal, prompts)

        def comparing(done: int, total: int, label: str) -> None:
            if cancelled():
                raise Cancelled("Stopped while pictures were compared.")
            progress(done, total, label)

        try:
            found = make_result(journal, schedule, request.models, request.reference_index, asked, comparing)
        except Cancelled:
            return Result(len(journal.done), len(journal.done))
        return Result(len(journal.done), len(journal.done), found, write_outputs(found, request.out))


async def _loading(
    server: BenchServer, workflow: Workflow, request: Request, prompts: Sequence[Prompt]
) -> tuple[Loading, list[tuple[str, ...]]]:
    graph = Graph(workflow, await _classes(server, workflow))
    loading, files = prepare_loading(graph, request.models, request.loaders)
    if request.prompts and PROMPT in loading.found.absent:
        raise RequestError(f"The prompt of this workflow cannot be varied: {loading.found.absent[PROMPT]}.")
    if SEED not in loading.varied and request.count > len(prompts):
        raise RequestError(
            f"This workflow has no place for a seed, so {len(prompts)} prompts give no {request.count} different pictures: "
            f"give -n {len(prompts)}, or more prompts."
        )
    return loading, files


async def _classes(server: BenchServer, workflow: Workflow) -> dict[str, NodeInfo]:
    found = {}
    for name in sorted({str(node["class_type"]) for node in workflow.values()} | {PREVIEW}):
        info = await server.node(name)
        if info is None:
            raise RequestError(f"{server.name} does not know the workflow's node {name}: install its node pack there.")
        found[name] = info
    return found


async def _facts(server: BenchServer, loading: Loading, files: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """What must be the same whenever the comparison goes on, and what its page says of the server."""
    stats, told = await server.system_stats(), await server.hardware()
    system = system_of(stats)
    widget = loading.places[0][1]
    made_by = [await server.provenance(FOLDERS[widget], names[0]) if widget in FOLDERS else None for names in files]
    return {
        "comfyui": one_line(str(system.get("comfyui_version", "unknown")), 40),
        "pytorch": one_line(str(system.get("pytorch_version", "unknown")), 40),
        "python": one_line(str(system.get("python_version", "unknown")).partition(" ")[0], 20),
        "os": one_line(str(system.get("os", "unknown")), 20),
        "nvfp4_studio": one_line(str(told.get("version")), 40) if told else None,
        "hardware": described_hardware(stats, told),
        "loaders": list(loading.titles),
        "varied": dict(loading.varied),
        "made_by": made_by,
    }


def _schedule(request: Request, journal: Journal, prompts: Sequence[Prompt]) -> Schedule:
    varied = (journal.server or {}).get("varied", {})
    return make_schedule(
        request.count,
        len(request.models),
        request.seed,
        prompts if PROMPT in varied else (),
        seeds=SEED in varied,
        block=request.block,
    )


def _digest(request: Request, workflow: Workflow, prompts: Sequence[Prompt]) -> dict[str, Any]:
    return {
        "workflow": _hash(workflow),
        "prompts": _hash([prompt.text for prompt in prompts]),
        "models": list(request.models),
        "pictures": request.count,
        "seed": request.seed,
        "block": request.block,
        "model-node": list(request.loaders),
    }


def _named(prompts: str | None) -> str:
    """Without folders: a result is passed on."""
    source = prompts or BUILTIN
    return source if source.startswith(BUILTIN) else Path(source).name


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
