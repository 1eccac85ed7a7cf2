"""Fidelity of a converted file, measured: every quantized layer's forward against the source's in full precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from ..calibration import Calibration
from ..calibration.kinds import kinds
from .errors import Cancelled, SensitivityError
from .families import component, detect_family, detect_prefix
from .fidelity import OUTPUTS, WEIGHTS, Coverage, Fidelity, LayerFidelity
from .formats import FORMATS
from .layers import SourceLayer, recognise, todays_name
from .measure import LayerError
from .memory import memory_for
from .options import Options
from .pipeline import Progress, never, no_progress, one_thread
from .planning.activations import check_calibration
from .planning.decide import context_of
from .sensitivity.one_layer import rows_kept
from .sensitivity.outputs import Computed, output_error, outputs
from .sensitivity.weighting import row_weights
from .source import Source
from .stored import decoder


@dataclass(frozen=True)
class _Pair:
    """One Linear layer of the diffusion model in both files; ``module`` is its name without a key prefix."""

    module: str
    before: SourceLayer
    after: SourceLayer

    @property
    def quantized(self) -> bool:
        """Whether it is computed with another weight or a rounded input; FP8 that stays FP8 may be neither."""
        stored = self.after.format in FORMATS and self.after.tag is not None
        return stored and not (self.after.full_precision and self.after.format == self.before.format)


def weight_fidelity(source: Source, converted: Source, errors: Iterable[LayerError]) -> Fidelity:
    """From the errors of weights that ``verify`` found."""
    pairs = list(_pairs(source, converted))
    types = kinds(pair.module for pair in pairs)
    by_name = {error.name: error for error in errors}
    measured = tuple(
        LayerFidelity(pair.module, types[pair.module], error.format, error.mse, None, error.rel_rmse, error.cosine)
        for pair in pairs
        if (error := by_name.get(pair.after.name)) is not None and not error.identical
    )
    quantized = {pair.module for pair in pairs if pair.quantized}
    return _fidelity(WEIGHTS, measured, (), quantized, types, source, converted)


def output_fidelity(
    source: Source,
    converted: Source,
    calibration: Calibration,
    *,
    device: torch.device | None = None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Fidelity:
    """Compute every quantized layer of both files on the rows that a calibration kept.

    Args:
        source: what was converted.
        converted: the result, found good by ``verify``.
        calibration: of the source, with detail ``curvature``.
        device: where to multiply; None for the CPU.
        progress: called with bytes of the source's layers done and in all.
        cancelled: asked between pieces; True raises ``Cancelled``.

    Raises:
        PlanError: the calibration is of another model.
        SensitivityError: it kept no row of any quantized layer's input.
        ConversionError: memory ran out.
    """
    check_calibration(context_of(source, Options(), calibration))
    device = device or torch.device("cpu")
    pairs = [pair for pair in _pairs(source, converted) if pair.quantized]
    if pairs and not any(rows_kept(calibration.layers.get(pair.module)) for pair in pairs):
        raise SensitivityError(
            f"The calibration kept no rows of the input of any layer that is quantized in {converted.path.name}; calibrate with "
            "detail curvature, or verify without activations."
        )
    types = kinds(pair.module for pair in _pairs(source, converted))

    def check() -> None:
        if cancelled():
            raise Cancelled("Cancelled; nothing was changed.")

    measured, unmeasured = [], []
    done, whole = 0, sum(source.tensors[pair.before.weight].nbytes for pair in pairs)
    with one_thread():
        for pair in pairs:
            check()
            progress(done, whole, pair.module)
            statistics = calibration.layers.get(pair.module)
            if statistics is None or statistics.reservoir is None or not rows_kept(statistics):
                unmeasured.append(pair.module)
            else:
                with memory_for(pair.before.weight):
                    values = statistics.reservoir.values().to(device)
                    weights = row_weights("uniform", statistics.reservoir, calibration)
                    shape = pair.before.shape
                    reference = outputs(values.float(), decoder(source, pair.before, shape), shape, check)
                    error = output_error(reference, _computed(converted, pair.after, shape), values, weights, check)
                measured.append(
                    LayerFidelity(
                        name=pair.module,
                        kind=types[pair.module],
                        format=pair.after.format,
                        mse=error.noise,
                        largest=error.largest,
                        rel_rmse=error.rel_rmse,
                        cosine=error.cosine,
                    )
                )
            done += source.tensors[pair.before.weight].nbytes
    differing = tuple(layer for layer in measured if layer.mse > 0)
    quantized = {pair.module for pair in pairs}
    return _fidelity(OUTPUTS, differing, tuple(unmeasured), quantized, types, source, converted)


def _computed(converted: Source, layer: SourceLayer, shape: tuple[int, int]) -> Computed:
    """A layer of the converted file as ComfyUI computes it."""
    found = {todays_name(name)[len(layer.name) + 1 :]: name for name in layer.companions}
    scale = float(converted.read(found["input_scale"])) if "input_scale" in found else None
    factor = converted.read(found["pre_quant_scale"]) if "pre_quant_scale" in found else None
    rows = decoder(converted, layer, shape)
    return Computed(layer.format, layer.tag or {}, not layer.full_precision, scale, factor, rows)


def _pairs(source: Source, converted: Source) -> Iterator[_Pair]:
    """The Linear layers of the diffusion model that both files have."""
    family = detect_family(source.tensors)
    before, after = recognise(source).layers, recognise(converted).layers
    dropped = family.prefix if not any(name.startswith(family.prefix) for name in converted.tensors) else ""
    part = detect_prefix(converted.tensors)
    for layer in after.values():
        original = before.get(dropped + layer.name)
        if original is None or component(layer.weight, part) != "diffusion_model":
            continue
        module = original.name[len(family.prefix) :]
        if not family.no_linear(module):
            yield _Pair(module, original, layer)


def _fidelity(
    of: str,
    measured: tuple[LayerFidelity, ...],
    unmeasured: tuple[str, ...],
    quantized: set[str],
    types: Mapping[str, str],
    source: Source,
    converted: Source,
) -> Fidelity:
    every = Counter(types.values())
    counts = Counter(types[module] for module in quantized)
    return Fidelity(
        of=of,
        layers=measured,
        unmeasured=unmeasured,
        coverage=tuple(Coverage(kind, counts[kind], count) for kind, count in every.items()),
        source_bytes=source.size,
        output_bytes=converted.size,
    )
