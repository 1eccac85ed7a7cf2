"""The tensors of one layer of a plan: quantized weights and what describes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..calibration import LayerStatistics
from .containers.layout import TensorSpec
from .errors import SourceError
from .formats import FORMATS, Encoding, Weight, tags
from .held_out import HeldOut, gain_of, outputs
from .layers import LEGACY_NAMES, SourceLayer
from .plan import LayerDecision, Outcome
from .rounding import METHODS
from .rounding.pre_quant import pre_quant_scale, transformed
from .source import Source

POSITIVE = frozenset(("input_scale", "pre_quant_scale")).union(*(stored.SCALES for stored in FORMATS.values()))
"""Suffixes of scales; a table of values (``weight_codebook``) may hold any number."""


def weight_of(source: Source, layer: LayerDecision, stored: torch.Tensor) -> Weight:
    """The weight of one layer as its source means it; ``stored`` is the tensor that was read.

    Raises:
        SourceError: its scale cannot be read.
    """
    scale = _stored(source, layer, "weight_scale")
    return Weight(layer.source_name, stored, source.read(scale) if scale else None)


def weight_in(source: Source, layer: SourceLayer) -> Weight:
    """The weight of a layer of a source, read from it.

    Raises:
        SourceError: it or its scale cannot be read.
    """
    return Weight(layer.name, source.read(layer.weight), source.read(layer.scale) if layer.scale else None)


@dataclass(frozen=True)
class Layer:
    """An encoded layer. ``weight`` is what was rounded: divided by the pre_quant_scale where there is one."""

    weight: Weight
    tensors: dict[str, torch.Tensor]
    outcome: Outcome


def encode(
    weight: Weight,
    layer: LayerDecision,
    statistics: LayerStatistics | None,
    device: torch.device,
    check: Callable[[], None],
    nearest: dict[float | None, dict[str, torch.Tensor]] | None = None,
) -> Layer:
    """Quantize one weight as the plan says; tensors by their suffixes.

    Where input rows were kept, every rounding must be as close as ``nearest`` on them, and a gain must help; what does
    not is not used, and the outcome tells.

    Args:
        statistics: what was seen of the layer's inputs, for roundings that look at it.
        check: called between pieces; may raise to cancel.
        nearest: this weight in NVFP4 by nearest rounding, by the exponent of its pre_quant_scale; what is missing is
            added, for calls with other methods that compare themselves with it.

    Raises:
        ConversionError: the weight holds NaN or infinity.
        SourceError: its scale is no positive number.
    """
    scale = None
    if layer.pre_quant_exponent is not None and statistics is not None:
        scale = pre_quant_scale(statistics, layer.pre_quant_exponent)
        weight, statistics = replace(weight, divisor=scale), transformed(statistics, scale)

    def rounded(method: str) -> dict[str, torch.Tensor]:
        kept = nearest if layer.rounding and method == "nearest" else None
        if kept is not None and layer.pre_quant_exponent in kept:
            return dict(kept[layer.pre_quant_exponent])
        encoding = Encoding(METHODS[method], device, layer.tag or {}, check, statistics)
        found = FORMATS[layer.format].encode(weight, encoding)
        if kept is not None:
            kept[layer.pre_quant_exponent] = dict(found)
        return found

    method, notes = layer.rounding or "nearest", []
    tensors = rounded(method)
    judged = method != "nearest" or layer.gain
    rows = HeldOut.of(statistics, layer.input_scale, layer.full_precision) if judged else None
    if rows is not None:
        found = outputs(weight, tensors, rows, device, check)
        if method != "nearest":
            plain = rounded("nearest")
            other = outputs(weight, plain, rows, device, check)
            if other.noise().sum() < found.noise().sum():
                notes.append(f"rounded by nearest in place of {method}: its outputs on held-out inputs are closer")
                method, tensors, found = "nearest", plain, other
        if layer.gain:
            gain = gain_of(found)
            tensors["weight_scale_2"] = tensors["weight_scale_2"] * gain
            notes += [] if gain != 1 else ["no gain: held-out outputs have their length"]
    if scale is not None:
        tensors["pre_quant_scale"] = scale
    return Layer(weight, tensors, Outcome(layer.rounding and method, tuple(notes)))


def description(source: Source, layer: LayerDecision, spec: TensorSpec) -> torch.Tensor:
    """A small tensor that describes a layer: tag, input_scale, or the source's own under its name of today or of old."""
    suffix = spec.name[len(layer.name) + 1 :]
    if suffix == "comfy_quant" and layer.tag is not None:
        return tags.tensor(tags.encode(layer.tag))
    if suffix == "input_scale" and layer.input_scale is not None:
        return torch.tensor(layer.input_scale, dtype=torch.float32)
    stored = _stored(source, layer, suffix)
    if stored is None:
        return torch.ones((), dtype=torch.float32)
    tensor = source.read(stored)
    values = tensor.float()
    if spec.dtype == torch.float32 and suffix in POSITIVE and not bool((torch.isfinite(values) & (values > 0)).all()):
        raise SourceError(
            f"{source.path}: {stored} is not a positive number; the source is damaged, get it from its author again."
        )
    return tensor.to(spec.dtype).reshape(spec.shape)


def _stored(source: Source, layer: LayerDecision, suffix: str) -> str | None:
    """The source's tensor with this description of a layer, under its name of today or of old."""
    names = (suffix, *(old for old, new in LEGACY_NAMES.items() if new == suffix))
    return next((key for name in names if (key := f"{layer.source_name}.{name}") in source.tensors), None)
