"""Carry out a plan: read a tensor, change it if the plan says so, write it; then verify and rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..calibration import Calibration
from .errors import Cancelled, ConversionError, SourceError, VerificationError
from .execute import Execution
from .options import Options
from .pipeline import Progress, default_workers, never, no_progress, one_thread
from .plan import Plan
from .planning.decide import make_plan
from .planning.passthrough import reserved_place
from .report import Report
from .searching import with_pre_quant
from .source import Source, open_source
from .verify import Verification, verify_sources
from .writer import Writer
from .writing.target import check_space, check_target, search_name, temporary_names


def convert(
    source_path: str | os.PathLike[str],
    target_path: str | os.PathLike[str],
    options: Options | None = None,
    *,
    calibration: Calibration | None = None,
    calibration_name: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Report:
    """Convert a checkpoint and return the report of the verified file.

    The target appears only when it is complete and verified; the source is opened for reading only. An error leaves
    nothing behind but what was searched before it, with which the next call for the same target goes on.

    Args:
        source_path: whatever ``open_source`` takes: a file, an index of shards or a folder.
        target_path: the file to write; must end in .safetensors.
        options: recipe, rounding, input_scale policy, layout, whether a pre_quant_scale is searched for each layer.
        calibration: statistics of the same model; None leaves NVFP4 activations dynamic and FP8
            layers without an input_scale of their own in full precision.
        calibration_name: how plan, report and header call it.
        device: ``auto`` (CUDA where there is one), ``cuda`` or ``cpu``.
        overwrite: replace an existing target.
        workers: threads that read and quantize ahead of the writing; None for one a core, at most 4, and for one where
            a GPU rounds, which several would only share. Memory is about that many of the largest tensor; the bytes do
            not depend on it.
        progress: see ``Progress``; the whole is the output's size, and of a search before it the searched weights'.
        cancelled: asked several times a second, also from other threads; True ends the conversion and
            leaves nothing behind.

    Raises:
        Cancelled: ``cancelled`` returned True.
        SourceError, PlanError, ConversionError, VerificationError: see there.
        SensitivityError: another process searches for the same target.
    """
    started = time.monotonic()
    target = Path(target_path)
    if "\0" in str(target):
        raise ConversionError(f"The output {str(target)!r} is no file name; choose another.")
    if target.suffix != ".safetensors":
        raise ConversionError(f"The output {target.name} must end in .safetensors, which ComfyUI's loaders list.")
    chosen = chosen_device(device)
    if workers is not None and workers < 1:
        raise ConversionError(f"{workers} threads cannot convert; choose 1 or more.")

    def check() -> None:
        if cancelled():
            raise Cancelled("Cancelled; nothing was written.")

    with one_thread(), open_source(source_path) as source:
        _check_apart(source, target)
        check_target(target, overwrite)
        stamp = source.stamp()
        asked = options or Options()
        search = with_pre_quant(
            source,
            asked,
            calibration,
            device=chosen,
            workers=workers,
            unfinished=search_name(target),
            planned=lambda plan: check_space(target, plan.output_bytes),
            progress=progress,
            cancelled=cancelled,
        )
        with search as found:
            # What was asked for stays in the plan, beside the recipe that came of it.
            plan = replace(make_plan(source, found, calibration, calibration_name), options=asked)
            with Writer(
                target,
                plan.specs(),
                plan.metadata,
                overwrite=overwrite,
                fingerprint=_fingerprint(source, plan, calibration, chosen),
            ) as writer:
                threads = workers or default_workers(chosen)
                execution = Execution(source, plan, calibration, writer, chosen, threads, progress, check)
                execution.run()
                progress(writer.size, writer.size, "writing to disk")
                verification = _verified(source, plan, execution, writer, workers, progress, cancelled)
                if source.stamp() != stamp:
                    raise SourceError(
                        f"{source.path} changed while it was converted; start again when nobody writes to it."
                    )
                check()
                writer.commit()
                with contextlib.suppress(OSError):  # what a run searched that was killed, and had other options
                    search_name(target).unlink()
    return Report(plan.after(execution.outcomes), verification, target.name, time.monotonic() - started)


def _verified(
    source: Source,
    plan: Plan,
    execution: Execution,
    writer: Writer,
    workers: int | None,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Verification:
    """Compare what was written with the plan, and complete its header.

    Raises:
        VerificationError: it is not what was planned.
    """
    with open_source(writer.finish()) as written:
        verification = verify_sources(
            source,
            written,
            expected=plan.specs(),
            known=execution.known,
            workers=workers,
            progress=lambda _, __, label: progress(writer.size, writer.size, label),
            cancelled=cancelled,
        )
    if verification.problems:
        raise VerificationError(
            f"The written file is not what was planned ({verification.problems[0]}); nothing was kept. Please report this."
        )
    writer.fill_in({reserved_place(number): digest for number, digest in enumerate(execution.digests)})
    return verification


def _check_apart(source: Source, target: Path) -> None:
    """The source must be none of the files that are going to be written.

    Raises:
        ConversionError: it is one of them.
    """
    for written in (target, *temporary_names(target), search_name(target)):
        if written.exists() and any(os.path.samefile(part, written) for part in source.files):
            raise ConversionError(
                f"Writing {target} would overwrite {written}, the source itself; choose another name."
            )


def _fingerprint(source: Source, plan: Plan, calibration: Calibration | None, device: torch.device) -> str:
    """Equal for two runs that would write the same bytes: the same plan for the same, unchanged source.

    Scales are in the plan; of the statistics that encoding looks at, the exact sums of squares stand for all but the
    rows that were kept, which a calibration of less detail lacks. The versions of the libraries that compute belong to
    it, and the kind of device, because another one may round otherwise.
    """
    try:
        kitchen = version("comfy-kitchen")
    except PackageNotFoundError:
        kitchen = "none"
    decided = hashlib.sha256(
        json.dumps(
            [plan.to_json(), dict(plan.metadata), source.stamp(), torch.__version__, kitchen, device.type]
        ).encode()
    )
    for layer in plan.layers:
        looks = layer.rounding not in ("", "nearest") or layer.gain or layer.pre_quant_exponent is not None
        seen = calibration.layers.get(layer.module) if calibration is not None and looks else None
        if seen is not None and seen.channels is not None:
            decided.update(seen.channels.sums.numpy().tobytes())
            decided.update(seen.reservoir.hashes.numpy().tobytes() if seen.reservoir is not None else b"")
    return decided.hexdigest()


def chosen_device(name: str) -> torch.device:
    if name not in ("auto", "cuda", "cpu"):
        raise ConversionError(f"There is no device {name!r}; choose auto, cuda or cpu.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConversionError("No CUDA device is available; choose device auto or cpu.")
    return torch.device(name)
