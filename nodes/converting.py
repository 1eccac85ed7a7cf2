"""What NVFP4Convert does when it is executed: nothing, or one conversion with its progress and its report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..calibration import load
from ..converters import Cancelled, Options, Recipe, Report, convert, detect_family, open_source, report_stem
from ..converters.families import component
from . import checkpoints, earlier, host, names, recipes
from .gate import gate, token_of
from .library import CALIBRATIONS
from .studio import converted_plans, interrupted
from .studio.board import Conversion
from .studio.conversions import board
from .texts import idle_text

DEVICE_BYTES = 2 << 30
"""Room that a conversion asks ComfyUI for on the GPU: about 1 GB of temporaries for the one piece of 2^25 weights
that is rounded at a time, as counted from their shapes, and what a rounding keeps of its layer."""


@dataclass(frozen=True)
class Job:
    """What one press of the button asks for. ``inputs`` are the node's own, to ask the same again after a kill."""

    source: Path
    target: Path
    options: Options
    statistics: Path | None
    calibration: str | None
    overwrite: bool
    inputs: interrupted.Inputs


def executed(node_id: str, prompt: Any, inputs: dict[str, Any]) -> str:
    """Convert if the prompt carries the button's token; the text that the node then shows.

    Args:
        node_id: execution id of the node.
        prompt: the whole prompt, as ComfyUI hands it to a node that asks for it.
        inputs: the values of the node's widgets.
    """
    source = inputs["source"]
    name = names.converted_name(source, inputs["output_name"])
    if not gate.spend(token_of(prompt, node_id), node_id):
        return _idle(name, source)
    prompt_id = host.current_prompt() or ""
    with (
        board.conversion(prompt_id, node_id, source, name) as entry,
        converted_plans.converting(prompt_id, node_id, inputs["recipe"]),
    ):
        job = _job(name, inputs, entry)
        files = earlier.inputs_of(job.source, job.statistics)
        entry.skipped = not job.overwrite and earlier.is_current(job.target, files, job.options)
        if not entry.skipped:
            report = _run(node_id, job, entry)
            replace(report, stamp=earlier.stamp_of(files, job.target)).write(report_stem(job.target))
            host.refresh_lists()
    text = earlier.text_of(job.target) or idle_text(job.target.name, exists=True)
    host.show_text(node_id, text)
    return text


def _idle(name: str, source: str) -> str:
    """The text of an ordinary Run: what there is already, or what the button would do."""
    there = next((path for path in checkpoints.output_candidates(name) if path.is_file()), None)
    if there is None:
        return idle_text(source, exists=False)
    return earlier.text_of(there) or idle_text(there.name, exists=True)


def _job(name: str, inputs: dict[str, Any], entry: Conversion) -> Job:
    """The files and options behind the widgets' values; the entry is told what each file is called."""
    host.require_nvfp4_loader()
    path = checkpoints.source_path(inputs["source"])
    entry.paths[path] = inputs["source"]
    calibration = None if inputs["calibration"] == host.NONE else inputs["calibration"]
    all_in_one = inputs["layout"] != "diffusion-model" and _is_all_in_one(path)
    target = checkpoints.output_path(name, all_in_one=all_in_one)
    entry.target = entry.paths[target] = checkpoints.output_id(target)
    statistics = CALIBRATIONS.existing(calibration) if calibration is not None else None
    if statistics is not None and calibration is not None:
        entry.paths[statistics] = calibration
    return Job(
        source=path,
        target=target,
        options=Options(
            recipe=_recipe(inputs["recipe"]),
            rounding=inputs["rounding"],
            input_scale=inputs["input_scale"],
            layout=inputs["layout"],
            text_encoder=inputs["text_encoder"],
            pre_quant=inputs["pre_quant"],
            gain=inputs["gain"],
        ),
        statistics=statistics,
        calibration=calibration,
        overwrite=inputs["overwrite"],
        inputs=inputs,
    )


def _recipe(recipe: str) -> str | Recipe | None:
    """What the options take: None for the family's own, a built-in one by its name, one of the user's whole."""
    if recipe == recipes.AUTO:
        return None
    found = recipes.read(recipe)
    return found if recipe.startswith(recipes.MINE) else recipe


def _run(node_id: str, job: Job, entry: Conversion) -> Report:
    """Convert; ComfyUI's own interrupt is raised when it was cancelled."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if host.device() == "cuda":
        host.free_memory(DEVICE_BYTES)
    progress = _Progress(node_id, job, entry)
    try:
        return convert(
            job.source,
            job.target,
            job.options,
            calibration=load(job.statistics) if job.statistics else None,
            calibration_name=job.calibration,
            device=host.device(),
            overwrite=job.overwrite,
            progress=progress,
            cancelled=host.cancelled,
        )
    except (Cancelled, host.Interrupted):
        host.show_text(node_id, f"{job.target.name}: cancelled, nothing was written.")
        host.raise_if_cancelled()
        raise
    finally:
        progress.close()


class _Progress:
    """Tells the node and the board; from the first call on the target is ours, and what was asked lies beside it."""

    def __init__(self, node_id: str, job: Job, entry: Conversion) -> None:
        self._job, self._entry = job, entry
        self._told = host.progress_told(node_id)
        self._recorded = False

    def __call__(self, done: int, total: int, label: str) -> None:
        if not self._recorded:
            self._recorded = True
            try:
                interrupted.record(self._job.target, self._job.inputs)
            except OSError as error:
                host.log.warning("After a kill the studio will not know what was asked for: %s", error)
        self._told(done, total, label)
        board.update(self._entry, done, total, label)

    def close(self) -> None:
        if self._recorded:
            interrupted.forget(self._job.target)


def _is_all_in_one(path: Path) -> bool:
    """Whether a file holds a text encoder, a VAE or anything else beside the diffusion model."""
    with open_source(path) as opened:
        prefix = detect_family(opened.tensors).prefix
        return any(component(name, prefix) != "diffusion_model" for name in opened.tensors)
