"""Measure a model's sensitivity: every Linear layer, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...calibration import Calibration
from ...calibration.kinds import kinds
from ..errors import Cancelled, SensitivityError
from ..kernels import DEFAULT_TABLE, OTHER_SHARE, KernelTable, load_table
from ..layers import SourceLayer
from ..memory import memory_for
from ..options import Options
from ..pipeline import Progress, default_workers, never, no_progress, one_thread, ordered
from ..planning.activations import check_calibration
from ..planning.decide import context_of
from ..planning.decided import stored_bytes
from ..source import Source
from ..writing.journal import open_private
from ..writing.target import lock_soon
from .choices import choices_of
from .document import Reader, layer_from_json, save
from .identity import calibration_fingerprint, digest_of, source_fingerprint
from .influence import with_influence
from .one_layer import Bench, rows_kept
from .progress_file import ProgressFile
from .values import Choice, LayerSensitivity, Sensitivity, layer_to_json
from .weighting import DEFAULT_WEIGHTING, check_weighting


def measure_sensitivity(
    source: Source,
    calibration: Calibration,
    choices: Sequence[Choice] | None = None,
    *,
    options: Options | None = None,
    calibration_name: str = "calibration",
    weighting: str = DEFAULT_WEIGHTING,
    influence: Mapping[str, float] | None = None,
    kernels: KernelTable | None = None,
    device: torch.device | None = None,
    workers: int | None = None,
    unfinished: Path | None = None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Sensitivity:
    """Measure every Linear layer of a diffusion model in every format that it can have.

    Memory holds a weight or two for each thread; the result does not depend on the number of threads.

    Args:
        source: an open checkpoint.
        calibration: of the same model, with detail ``curvature``, whose kept rows are what is measured on.
        choices: see ``choices_of``, its default when None. The rounding ``auto`` becomes each layer's own method;
            a method for which a layer was not seen enough, and a format that cannot hold it, are left out there.
        options: the ``input_scale`` policy counts; layout and recipe do not.
        calibration_name: how the result calls it.
        weighting: a key of ``WEIGHTINGS``.
        influence: how much of each module's error reaches the output, from ``influence.Prober``; None for 1 everywhere.
        kernels: speeds of the GPU that time is predicted for; None for the default table.
        device: where weights are rounded and multiplied; None for the CPU.
        workers: threads; None for one a core, at most 4, and one on a GPU.
        unfinished: where finished layers are kept, so that the next call with the same arguments goes on.
        progress: called with bytes of the layers done and in all.
        cancelled: asked between pieces; True raises ``Cancelled``.

    Raises:
        SensitivityError: the calibration kept no rows.
        PlanError, SourceError: see ``make_plan``.
        ConversionError: memory ran out.
        Cancelled: what was measured stays in ``unfinished``.
    """
    choices = choices_of() if choices is None else tuple(choices)
    check_weighting(weighting)
    kernels = kernels or load_table(DEFAULT_TABLE)
    device = device or torch.device("cpu")
    context = context_of(source, options or Options(), calibration)
    check_calibration(context)
    layers = [layer for layer in context.recognised.layers.values() if context.part(layer.weight) == "diffusion_model"]
    if not any(rows_kept(context.statistics(context.module(layer))) for layer in layers):
        raise SensitivityError(
            f"The calibration {calibration_name} kept no rows of any layer's input; calibrate with detail curvature."
        )

    def check() -> None:
        if cancelled():
            raise Cancelled(
                "Cancelled; the layers that were measured are kept, and the next run goes on with the rest."
            )

    bench = Bench(
        context=context,
        calibration=calibration,
        choices=choices,
        weighting=weighting,
        kernels=kernels,
        device=device,
        types=kinds(context.module(layer) for layer in layers),
        check=check,
    )
    fingerprint = source_fingerprint(source)
    described = digest_of(
        {
            "source": fingerprint,
            "calibration": calibration_fingerprint(calibration),
            "input_scale": context.options.input_scale,
            "weighting": weighting,
            "kernels": kernels.to_json(),
            "choices": [asdict(choice) for choice in choices],
            "device": device.type,
        }
    )
    found = []
    done, whole = 0, sum(source.tensors[layer.weight].nbytes for layer in layers)
    from_json = partial(layer_from_json, Reader(str(unfinished)))
    with ProgressFile(unfinished, described, layer_to_json, from_json) as kept, one_thread():

        def examine(layer: SourceLayer) -> LayerSensitivity:
            with memory_for(layer.weight):
                return kept.finished.get(context.module(layer)) or bench.measure(layer)

        threads = workers or default_workers(device)
        for layer, result in ordered(examine, layers, threads):
            if result.module not in kept.finished:
                kept.add(result)
            found.append(result)
            done += source.tensors[layer.weight].nbytes
            progress(done, whole, result.module)
            check()
    before = sum(stored_bytes(context, layer) for layer in layers)
    return Sensitivity(
        source=source.path.name,
        fingerprint=fingerprint,
        family=context.family.name,
        calibration=calibration_name,
        input_scale=context.options.input_scale,
        weighting=weighting,
        kernels=kernels.name,
        other_bytes=sum(info.nbytes for info in source.tensors.values()) - before,
        other_time=OTHER_SHARE * sum(result.fp8_time for result in found),
        layers=tuple(with_influence(found, influence)),
        details={
            "kernels": f"{kernels.gpu}: {kernels.source} ({kernels.date})",
            "device": device.type,
            "influence": "not measured" if influence is None else f"measured for {len(influence)} layers",
        },
    )


def measure_and_save(
    source: Source, calibration: Calibration, target: Path, choices: Sequence[Choice] | None = None, **settings: Any
) -> Sensitivity:
    """``measure_sensitivity`` into a JSON file; what was measured before a cancel or a crash is not measured again."""
    unfinished = unfinished_name(target)
    measured = measure_sensitivity(source, calibration, choices, unfinished=unfinished, **settings)
    save(measured, target)
    unfinished.unlink(missing_ok=True)
    return measured


def unfinished_name(target: Path) -> Path:
    """Where the layers that were measured already are kept, locked while the measurement runs."""
    return target.with_name(f".{target.name}.part")


def discard_unfinished(target: Path) -> None:
    """Remove what a measurement into ``target`` kept when it was cancelled or killed, if there is anything.

    Raises:
        SensitivityError: the measurement runs.
        OSError: as the system says.
    """
    unfinished = unfinished_name(target)
    if unfinished.is_symlink() or not unfinished.is_file():
        return
    with open_private(unfinished) as file:
        if not lock_soon(file):
            raise SensitivityError(f"{target} is being measured; wait for it, or cancel it first.")
        if os.name == "nt":  # nothing that is open is removed there
            file.close()
        unfinished.unlink(missing_ok=True)
