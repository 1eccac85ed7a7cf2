"""One conversion for NVFP4Convert: progress to the node and the board, what was asked beside it, the report after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..calibration import load
from ..converters import Cancelled, Options, convert, detect_family, open_source, report_stem
from ..converters.families import component
from . import host
from .studio import interrupted
from .studio.board import Conversion
from .studio.conversions import board

STATUS_SECONDS = 0.3
DEVICE_BYTES = 2 << 30
"""Room that a conversion asks ComfyUI for on the GPU: the largest tensor of today's models in float32, and
the temporaries of its rounding."""


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


def run(node_id: str, job: Job, entry: Conversion) -> None:
    """Convert and write the report beside the file; ComfyUI's own interrupt is raised when it was cancelled."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if host.device() == "cuda":
        host.free_memory(DEVICE_BYTES)
    progress = _Progress(node_id, job, entry)
    try:
        report = convert(
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
    report.write(report_stem(job.target))


class _Progress:
    """Tells the node and the board; from the first call on the target is ours, and what was asked lies beside it."""

    def __init__(self, node_id: str, job: Job, entry: Conversion) -> None:
        self._node_id, self._job, self._entry = node_id, job, entry
        self._bar: Callable[[int, int], None] = host.progress_bar(node_id)
        self._next_text = 0.0
        self._recorded = False

    def __call__(self, done: int, total: int, label: str) -> None:
        if not self._recorded:
            self._recorded = True
            interrupted.record(self._job.target, self._job.inputs)
        self._bar(done, total)
        board.update(self._entry, done, total, label)
        now = time.monotonic()
        if now >= self._next_text:
            self._next_text = now + STATUS_SECONDS
            host.show_text(self._node_id, f"{done / max(total, 1):.0%} {label}")

    def close(self) -> None:
        if self._recorded:
            interrupted.forget(self._job.target)


def is_all_in_one(path: Path) -> bool:
    """Whether a file holds a text encoder, a VAE or anything else beside the diffusion model."""
    with open_source(path) as opened:
        prefix = detect_family(opened.tensors).prefix
        return any(component(name, prefix) != "diffusion_model" for name in opened.tensors)
