"""Measure simulated formats on the same rows as the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...calibration import Calibration
from ..encode import weight_in
from ..errors import Cancelled
from ..layers import SourceLayer
from ..memory import memory_for
from ..options import Options
from ..pipeline import Progress, default_workers, never, no_progress, one_thread, ordered
from ..planning.context import Context
from ..planning.decide import context_of
from ..sensitivity import Choice, Outcome, Sensitivity
from ..sensitivity.document import Reader
from ..sensitivity.identity import calibration_fingerprint, digest_of
from ..sensitivity.outputs import Computed, output_error, outputs
from ..sensitivity.progress_file import ProgressFile
from ..sensitivity.weighting import row_weights
from ..source import Source
from .simulated import SIMULATED

Simulated = Mapping[str, Mapping[str, Outcome]]
"""For each module the outcome of each simulated format; time is 0, for there is no kernel to be timed."""


@dataclass(frozen=True)
class _Layer:
    """One layer's noise by format."""

    module: str
    noise: Mapping[str, float]


def simulate(
    source: Source,
    calibration: Calibration,
    sensitivity: Sensitivity,
    formats: Sequence[str],
    *,
    options: Options,
    device: torch.device,
    unfinished: Path | None = None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Simulated:
    """The output error of every layer that has a choice, in each of the ``formats``, keys of ``SIMULATED``.

    Args:
        sensitivity: of the same source and calibration; tells the layers and how rows are weighted.
        unfinished: where finished layers are kept, so that the next call with the same arguments goes on.

    Raises:
        ConversionError: memory ran out.
        Cancelled: what was measured stays in ``unfinished``.
    """
    context = context_of(source, options, calibration)
    shapes = {layer.module: layer.shape for layer in sensitivity.layers if not layer.fixed}
    layers = [layer for layer in context.recognised.layers.values() if context.module(layer) in shapes]

    def check() -> None:
        if cancelled():
            raise Cancelled("Cancelled; what was measured is kept, and the next run goes on with the rest.")

    def examine(layer: SourceLayer) -> _Layer:
        module = context.module(layer)
        with memory_for(layer.weight):
            known = kept.finished.get(module)
            return known or _Layer(module, _noise(context, calibration, sensitivity, layer, formats, device, check))

    seen = calibration_fingerprint(calibration)
    described = digest_of([sensitivity.fingerprint, seen, sensitivity.weighting, device.type, *formats])
    from_json = partial(_from_json, Reader(str(unfinished)), formats)
    threads = default_workers(device)
    found: dict[str, Mapping[str, float]] = {}
    with ProgressFile(unfinished, described, asdict, from_json) as kept, one_thread():
        for done, (_, result) in enumerate(ordered(examine, layers, threads), 1):
            if result.module not in kept.finished:
                kept.add(result)
            found[result.module] = result.noise
            progress(done, len(layers), f"simulating {result.module}")
            check()
    return {
        module: {
            name: Outcome(Choice(name), SIMULATED[name].bytes(shapes[module]), noise[name], 0.0) for name in formats
        }
        for module, noise in found.items()
    }


def _noise(
    context: Context,
    calibration: Calibration,
    sensitivity: Sensitivity,
    layer: SourceLayer,
    formats: Sequence[str],
    device: torch.device,
    check: Callable[[], None],
) -> dict[str, float]:
    statistics = context.statistics(context.module(layer))
    assert statistics is not None and statistics.reservoir is not None
    weight = weight_in(context.source, layer)
    values = statistics.reservoir.values().to(device)
    weights = row_weights(sensitivity.weighting, statistics.reservoir, calibration)
    reference = outputs(values.float(), weight.rows, layer.shape, check)
    found = {}
    for name in formats:
        rows = SIMULATED[name].rows

        def decoded(first: int, last: int, rows: Callable[[torch.Tensor], torch.Tensor] = rows) -> torch.Tensor:
            return rows(weight.rows(first, last).float())

        computed = Computed(None, {}, False, None, None, decoded)
        found[name] = output_error(reference, computed, values, weights, check).noise
    return found


def _from_json(reader: Reader, formats: Sequence[str], data: Any) -> _Layer:
    data = reader.of(data, dict, "a layer")
    module = reader.text(data.get("module"), "module")
    noise = reader.of(data.get("noise"), dict, f"noise of {module}")
    return _Layer(module, {name: reader.number(noise.get(name), f"noise of {module}") for name in formats})
