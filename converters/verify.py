"""Reopen a converted file: is it what ComfyUI needs, and how far are its weights from the source's?"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .containers.layout import TensorSpec
from .errors import Cancelled
from .families import component, detect_prefix
from .formats import nvfp4
from .layers import LEGACY_NAMES, Recognised, recognise
from .measure import LayerError, equal_bytes, measure
from .pipeline import Progress, default_workers, never, no_progress, one_thread, ordered
from .source import Source, open_source
from .storage import broken_storage
from .tags import MARKER, METADATA_KEY


@dataclass(frozen=True)
class Verification:
    """``problems`` is empty for a good file. ``related`` is False for a file of something else: the first problem says so."""

    layers: tuple[LayerError, ...]
    problems: tuple[str, ...]
    tensors: int
    related: bool = True

    def worst(self) -> LayerError | None:
        """The changed layer with the smallest SQNR, or None when nothing changed."""
        changed = [layer for layer in self.layers if layer.sqnr_db is not None]
        return min(changed, key=lambda layer: layer.sqnr_db or 0.0, default=None)

    def main_format(self) -> str | None:
        """NVFP4 where any layer changed to it, else the format of most changed layers; None when nothing changed."""
        formats = Counter(layer.format for layer in self.layers if layer.sqnr_db is not None)
        return nvfp4.NAME if nvfp4.NAME in formats else max(formats, key=lambda name: formats[name], default=None)

    def mean_sqnr_db(self) -> float | None:
        """Mean over the layers that changed to the main format, in dB."""
        main = self.main_format()
        values = [layer.sqnr_db for layer in self.layers if layer.sqnr_db is not None and layer.format == main]
        return sum(values) / len(values) if values else None

    def to_json(self) -> dict[str, Any]:
        worst = self.worst()
        return {
            "good": not self.problems,
            "related": self.related,
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
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Verification:
    """Verify a file on disk against its source. See ``verify_sources``."""
    with one_thread(), open_source(source_path) as source, open_source(converted_path) as converted:
        return verify_sources(source, converted, progress=progress, cancelled=cancelled)


def verify_sources(
    source: Source,
    converted: Source,
    *,
    expected: Iterable[TensorSpec] | None = None,
    known: Mapping[str, LayerError | None] | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
    cancelled: Callable[[], bool] = never,
) -> Verification:
    """Check what the loader needs, measure every quantized weight, compare everything else byte for byte.

    Args:
        source: what was converted.
        converted: the result.
        expected: the plan's declarations; None skips the comparison with a plan.
        known: tensors of ``converted`` that were just written, with the error of each weight that was measured
            then. Their bytes are the writer's to check; here only scales and tags of theirs are read.
        workers: threads; None for one a core, at most 4.
        progress: called with bytes of ``converted`` done and in all.
        cancelled: asked between pieces; True raises ``Cancelled``.
    """
    problems = list(_unexpected(converted, expected)) if expected is not None else []
    before, after = recognise(source), recognise(converted)
    prefix = _dropped_prefix(source, converted)
    problems += [*_metadata_problems(converted), *_missing(source, before, converted, prefix)]
    unrelated = None if expected is not None else _unrelated(source, before, converted, after, prefix)
    part = detect_prefix(converted.tensors)
    errors = []
    done = 0

    def examine(name: str) -> tuple[list[str], LayerError | None]:
        if cancelled():
            raise Cancelled("Cancelled; nothing was changed.")
        if name in after.descriptions:
            return [], None
        layer = after.layers.get(name[: -len(".weight")]) if name.endswith(".weight") else None
        original = name if name in source.tensors else prefix + name
        if original not in source.tensors:
            return [f"{name} has no counterpart in the source"], None
        counterpart = before.layers.get(original[: -len(".weight")]) if layer is not None else None
        plain = layer is not None and counterpart is not None and layer.is_plain and layer.format == counterpart.format
        if known is not None and name in known and (layer is None or counterpart is None or not layer.described):
            return [], None
        if layer is None or counterpart is None or plain or not (layer.described or counterpart.described):
            same = equal_bytes(source, original, converted, name)
            return [] if same else [f"{name} differs from the source although it was to be copied"], None
        carried = layer.format == counterpart.format and not layer.is_fp8
        broken = [] if carried else broken_storage(converted, layer, counterpart.shape, component(name, part))
        if broken:
            return broken, None
        ready = known.get(name) if known is not None else None
        if ready is not None:
            return _implausible(ready), ready
        error = measure(source, counterpart, converted, layer, cancelled)
        if carried and not (error.identical and counterpart.tag in (None, layer.tag)):
            return [f"{layer.name} was {layer.format} already but differs from the source"], error
        return _implausible(error), error

    for name, (found, error) in ordered(examine, converted.tensors, workers or default_workers()):
        progress(done, converted.size, f"verifying {name}")
        done += converted.tensors[name].nbytes
        problems += found
        errors += [error] if error else []
    problems = [unrelated, *problems] if unrelated else problems
    return Verification(tuple(errors), tuple(problems), len(converted.tensors), related=unrelated is None)


def _unexpected(converted: Source, expected: Iterable[TensorSpec]) -> Iterable[str]:
    planned = {spec.name: spec for spec in expected}
    for name in planned.keys() ^ converted.tensors.keys():
        yield f"{name} is {'missing' if name in planned else 'not planned'}"
    for name, spec in planned.items():
        info = converted.tensors.get(name)
        if info is not None and (info.torch_dtype, info.shape) != (spec.dtype, spec.shape):
            yield f"{name} is {info.dtype} {info.shape}, planned {spec.dtype} {spec.shape}"


def _metadata_problems(converted: Source) -> Iterable[str]:
    """Header and ``.comfy_quant`` tensors must name the same layers with the same content, and no other layers."""
    header = json.loads(converted.metadata.get(METADATA_KEY, "{}")).get("layers", {})
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
    for name in converted.tensors:
        if name.rpartition(".")[2] in (*LEGACY_NAMES, MARKER):
            yield f"{name} is a stale tensor of the legacy form"


def _missing(source: Source, before: Recognised, converted: Source, prefix: str) -> Iterable[str]:
    """Source tensors without a counterpart. Where the prefix was dropped, only the diffusion model is expected."""
    for name in source.tensors:
        if name not in before.descriptions and name.startswith(prefix) and name[len(prefix) :] not in converted.tensors:
            yield f"{name} of the source is missing"


def _unrelated(source: Source, before: Recognised, converted: Source, after: Recognised, prefix: str) -> str | None:
    """One sentence where more than half of what a conversion would have kept is not there, or in another shape."""

    def kept(name: str) -> bool:
        found, wanted = converted.tensors.get(name[len(prefix) :]), source.tensors[name].shape
        if found is None or found.shape == wanted:
            return found is not None
        layer = after.layers.get(name[len(prefix) :].removesuffix(".weight"))
        return layer is not None and layer.described and found.shape[:1] == wanted[:1]  # every format packs within rows

    names = [name for name in source.tensors if name not in before.descriptions and name.startswith(prefix)]
    lost = sum(not kept(name) for name in names)
    if 2 * lost <= len(names):
        return None
    return (
        f"{converted.path.name} was not converted from {source.path.name}: {lost} of {len(names)} tensors are missing or have "
        "another shape; verify it against the checkpoint that it was made from."
    )


def _dropped_prefix(source: Source, converted: Source) -> str:
    prefix = detect_prefix(source.tensors)
    return prefix if prefix and not any(name.startswith(prefix) for name in converted.tensors) else ""


def _implausible(error: LayerError) -> list[str]:
    """No rounding is that far from its source: the weights are other ones, or their scales."""
    if not error.plausible:
        return [f"{error.name} is only {error.sqnr_db:.1f} dB from the source, which no rounding explains"]
    return []
