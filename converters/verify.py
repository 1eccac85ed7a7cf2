"""Reopen a converted file: is it what ComfyUI needs, and how far are its weights from the source's?"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .errors import Cancelled
from .families import component, detect_prefix
from .formats import fp8, nvfp4
from .layers import FP8_FORMATS, METADATA_KEY, Recognised, SourceLayer, recognise
from .pipeline import default_workers, one_thread, ordered
from .source import Source, open_source
from .writer import TensorSpec

WEIGHTS_AT_ONCE = 1 << 19
"""Weights compared at once: a few temporaries of 2 MiB, and sums short enough for float32."""


@dataclass(frozen=True)
class LayerError:
    """Distance of one layer's weights from the source's, both as ComfyUI would compute with them.

    ``sqnr_db`` is ``10·log10(Σw² / Σ(w−q)²)``, ``rel_rmse`` its root form ``√(Σ(w−q)² / Σw²)``,
    ``cosine`` that of the angle between the weights; ``identical`` means no difference (SQNR None).
    """

    name: str
    source_format: str
    format: str
    identical: bool
    sqnr_db: float | None
    rel_rmse: float
    cosine: float


@dataclass(frozen=True)
class Verification:
    """``problems`` is empty for a good file."""

    layers: tuple[LayerError, ...]
    problems: tuple[str, ...]
    tensors: int

    def worst(self) -> LayerError | None:
        """The changed layer with the smallest SQNR, or None when nothing changed."""
        changed = [layer for layer in self.layers if layer.sqnr_db is not None]
        return min(changed, key=lambda layer: layer.sqnr_db or 0.0, default=None)

    def mean_sqnr_db(self) -> float | None:
        """Mean over the changed layers, in dB."""
        values = [layer.sqnr_db for layer in self.layers if layer.sqnr_db is not None]
        return sum(values) / len(values) if values else None

    def to_json(self) -> dict[str, Any]:
        worst = self.worst()
        return {
            "good": not self.problems,
            "problems": list(self.problems),
            "tensors": self.tensors,
            "mean_sqnr_db": self.mean_sqnr_db(),
            "worst_layer": worst.name if worst else None,
            "worst_sqnr_db": worst.sqnr_db if worst else None,
            "layers": [asdict(layer) for layer in self.layers],
        }


def verify(
    source_path: str | os.PathLike[str],
    converted_path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, label: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Verification:
    """Verify a file on disk against its source. See ``verify_sources``."""
    with one_thread(), open_source(source_path) as source, open_source(converted_path) as converted:
        return verify_sources(source, converted, progress=progress, cancelled=cancelled)


def verify_sources(
    source: Source,
    converted: Source,
    *,
    expected: Iterable[TensorSpec] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, label: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Verification:
    """Check what the loader needs, measure every quantized weight, compare everything else byte for byte.

    Args:
        source: what was converted.
        converted: the result.
        expected: the plan's declarations; None skips the comparison with a plan.
        workers: threads; None for one a core, at most 4.
        progress: called with bytes of ``converted`` done and in all.
        cancelled: asked between pieces; True raises ``Cancelled``.
    """
    problems = list(_unexpected(converted, expected)) if expected is not None else []
    before, after = recognise(source), recognise(converted)
    problems += _metadata_problems(converted, after)
    prefix = _dropped_prefix(source, converted)
    part = detect_prefix(converted.tensors)
    errors = []
    done = 0

    def examine(name: str) -> tuple[list[str], LayerError | None]:
        if cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        if name in after.descriptions:
            return [], None
        layer = after.layers.get(name[: -len(".weight")]) if name.endswith(".weight") else None
        original = name if name in source.tensors else prefix + name
        if original not in source.tensors:
            return [f"{name} has no counterpart in the source"], None
        if layer is not None and layer.format in (nvfp4.NAME, *FP8_FORMATS.values()) and layer.tag is not None:
            broken = _broken_scales(converted, layer, component(name, part))
            counterpart = before.layers[original[: -len(".weight")]]
            return broken, None if broken else _measure(source, counterpart, converted, layer, cancelled)
        if not _equal_bytes(source, original, converted, name):
            return [f"{name} differs from the source although it was to be copied"], None
        return [], None

    for name, (found, error) in ordered(examine, converted.tensors, workers or default_workers()):
        progress(done, converted.size, f"verifying {name}")
        done += converted.tensors[name].nbytes
        problems += found
        errors += [error] if error else []
    return Verification(tuple(errors), tuple(problems), len(converted.tensors))


def _unexpected(converted: Source, expected: Iterable[TensorSpec]) -> Iterable[str]:
    planned = {spec.name: spec for spec in expected}
    for name in planned.keys() ^ converted.tensors.keys():
        yield f"{name} is {'missing' if name in planned else 'not planned'}"
    for name, spec in planned.items():
        info = converted.tensors.get(name)
        if info is not None and (info.torch_dtype, info.shape) != (spec.dtype, spec.shape):
            yield f"{name} is {info.dtype} {info.shape}, planned {spec.dtype} {spec.shape}"


def _metadata_problems(converted: Source, recognised: Recognised) -> Iterable[str]:
    """Header and ``.comfy_quant`` tensors must name the same layers with the same content, and no other layers."""
    header = json.loads(converted.metadata.get(METADATA_KEY, '{"layers": {}}'))["layers"]
    in_tensors = {
        name[: -len(".comfy_quant")]: json.loads(converted.read(name).numpy().tobytes())
        for name in converted.tensors
        if name.endswith(".comfy_quant")
    }
    for layer in header.keys() | in_tensors.keys():
        if header.get(layer) != in_tensors.get(layer):
            yield f"the header says {header.get(layer)} of {layer}, its comfy_quant tensor {in_tensors.get(layer)}"
        if f"{layer}.weight" not in converted.tensors:
            yield f"the metadata names {layer}, which has no weight"
    for name in recognised.descriptions:
        if name.rpartition(".")[2] in ("scale_weight", "scale_input", "scaled_fp8"):
            yield f"{name} is a stale tensor of the legacy form"


def _dropped_prefix(source: Source, converted: Source) -> str:
    prefix = detect_prefix(source.tensors)
    return prefix if prefix and not any(name.startswith(prefix) for name in converted.tensors) else ""


def _broken_scales(converted: Source, layer: SourceLayer, part: str) -> list[str]:
    """What stock ComfyUI would refuse or silently compute wrongly."""
    problems = []
    wanted = {"weight_scale": torch.float8_e4m3fn, "weight_scale_2": torch.float32}
    if layer.is_fp8:
        wanted = {"weight_scale": torch.float32}
    elif layer.format != nvfp4.NAME:
        return []
    if f"{layer.name}.input_scale" in converted.tensors:
        wanted["input_scale"] = torch.float32
    for suffix, dtype in wanted.items():
        name = f"{layer.name}.{suffix}"
        info = converted.tensors.get(name)
        if info is None or info.torch_dtype != dtype:
            problems.append(f"{name} is {info.dtype if info else 'missing'}, expected {dtype}")
            continue
        values = converted.read(name).float()
        # Block scales of all-zero blocks and of padding are zero; every other scale must be positive.
        smallest_allowed = 0.0 if dtype == torch.float8_e4m3fn else torch.finfo(torch.float32).smallest_normal
        if not bool(torch.isfinite(values).all()) or bool((values < smallest_allowed).any()):
            problems.append(f"{name} holds a value that is not finite and positive")
    if layer.is_fp8 and part == "diffusion_model" and "input_scale" not in wanted and not layer.full_precision:
        problems.append(f"{layer.name} is FP8 without input_scale: ComfyUI would clamp its input at ±448")
    return problems


def _measure(
    source: Source, before: SourceLayer, converted: Source, after: SourceLayer, cancelled: Callable[[], bool]
) -> LayerError:
    if before.format == after.format and _same_weight(source, before, converted, after):
        return LayerError(after.name, before.format, after.format, True, None, 0.0, 1.0)
    sums = torch.zeros(4, dtype=torch.float64)
    rows, columns = before.shape
    step = max(1, WEIGHTS_AT_ONCE // max(1, columns))
    scales = None
    if after.format == nvfp4.NAME:
        blocked = converted.read(f"{after.name}.weight_scale")
        scales = nvfp4.unblocked_scales(blocked, before.shape)
    for first in range(0, rows, step):
        if cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        last = min(rows, first + step)
        original = _values(source, before, first, last, None)
        result = _values(converted, after, first, last, scales)[:, :columns]
        difference = original - result
        original, result, difference = (values.reshape(-1) for values in (original, result, difference))
        for index, (left, right) in enumerate(
            ((original, original), (difference, difference), (original, result), (result, result))
        ):
            sums[index] += torch.dot(left, right)
    signal, noise, product, power = sums.tolist()
    return LayerError(
        name=after.name,
        source_format=before.format,
        format=after.format,
        identical=noise == 0,
        sqnr_db=10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
        rel_rmse=math.sqrt(noise / signal) if signal > 0 else 0.0,
        cosine=product / math.sqrt(signal * power) if signal > 0 and power > 0 else 1.0,
    )


def _same_weight(source: Source, before: SourceLayer, converted: Source, after: SourceLayer) -> bool:
    """True when stored bytes and scales agree, a missing scale counting as 1."""
    scales = [
        file.read(layer.scale).float().reshape(-1) if layer.scale else torch.ones(1)
        for file, layer in ((source, before), (converted, after))
    ]
    return torch.equal(*scales) and _equal_bytes(source, before.weight, converted, after.weight)


def _values(source: Source, layer: SourceLayer, first: int, last: int, scales: torch.Tensor | None) -> torch.Tensor:
    """Float32 rows of a weight of any supported format."""
    rows = source.read_rows(layer.weight, first, last)
    if scales is not None:
        tensor_scale = source.read(f"{layer.name}.weight_scale_2")
        return nvfp4.decode_rows(rows, scales[first:last], tensor_scale, rows.shape[1] * 2)
    if not layer.is_fp8:
        return rows.float()
    scale = source.read(layer.scale) if layer.scale else None
    if scale is not None and scale.numel() > 1:
        scale = scale.reshape(-1)[first:last]
    return fp8.upcast(rows, scale, layer.name)


def _equal_bytes(source: Source, original: str, converted: Source, name: str) -> bool:
    one, other = source.tensors[original], converted.tensors[name]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(left == right for left, right in zip(source.chunks(original), converted.chunks(name), strict=True))
