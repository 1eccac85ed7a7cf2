"""Measure simulated formats on the same rows as the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...calibration import Calibration
from ..context import Context
from ..decide import context_of
from ..encode import weight_of
from ..errors import Cancelled
from ..journal import open_private
from ..layer_rules import decide_layer
from ..layers import SourceLayer
from ..pipeline import Progress, default_workers, never, no_progress, one_thread, ordered
from ..plan import Options
from ..sensitivity import Choice, Outcome, Sensitivity
from ..sensitivity.outputs import Computed, output_error, outputs
from ..sensitivity.weighting import row_weights
from ..source import Source
from .simulated import SIMULATED

MAX_BYTES = 1 << 26
Simulated = Mapping[str, Mapping[str, Outcome]]
"""For each module the outcome of each simulated format; time is 0, for there is no kernel to be timed."""


@dataclass(frozen=True)
class _Layer:
    """One layer's noise by format: a line of the file of unfinished work."""

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
        known = kept.finished.get(module)
        return known or _Layer(module, _noise(context, calibration, sensitivity, layer, formats, device, check))

    described = [sensitivity.fingerprint, sensitivity.calibration, sensitivity.weighting, *formats]
    threads = default_workers() if device.type == "cpu" else 1
    found: dict[str, Mapping[str, float]] = {}
    with _Kept(unfinished, described) as kept, one_thread():
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
    weight = weight_of(context.source, decide_layer(context, layer), context.source.read(layer.weight))
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


class _Kept:
    """One JSON a line: what is measured, then each layer. A line that was cut off counts as nothing."""

    def __init__(self, path: Path | None, described: Sequence[str]):
        self._path, self._described = path, list(described)
        self._file: Any = None
        self.finished: dict[str, _Layer] = {}

    def __enter__(self) -> _Kept:
        if self._path is not None:
            self._file = open_private(self._path)
            self.finished = self._read(self._file.read(MAX_BYTES))
            self._file.seek(0)
            self._file.truncate()
            self._append(self._described)
            for layer in self.finished.values():
                self._append([layer.module, dict(layer.noise)])
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, layer: _Layer) -> None:
        self._append([layer.module, dict(layer.noise)])

    def _append(self, entry: object) -> None:
        if self._file is not None:
            self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def _read(self, content: bytes) -> dict[str, _Layer]:
        try:
            lines = [json.loads(line) for line in content.split(b"\n")[:-1]]
            if not lines or lines[0] != self._described:
                return {}
            return {module: _Layer(module, {name: float(noise[name]) for name in noise}) for module, noise in lines[1:]}
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {}
