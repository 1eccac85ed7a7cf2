"""The tensors of one layer of a plan: quantized weights and what describes them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..calibration import LayerStatistics
from .errors import SourceError
from .formats import FORMATS, Encoding, Weight, tags
from .layers import LEGACY_NAMES
from .layout import TensorSpec
from .plan import LayerDecision
from .rounding import METHODS
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


def encode(
    weight: Weight,
    layer: LayerDecision,
    statistics: LayerStatistics | None,
    device: torch.device,
    check: Callable[[], None],
) -> dict[str, torch.Tensor]:
    """Quantize one weight as the plan says; tensors by their suffixes.

    Args:
        statistics: what was seen of the layer's inputs, for roundings that look at it.
        check: called between pieces; may raise to cancel.

    Raises:
        ConversionError: the weight holds NaN or infinity.
        SourceError: its scale is no positive number.
    """
    encoding = Encoding(METHODS[layer.rounding or "nearest"], device, layer.tag or {}, check, statistics)
    return FORMATS[layer.format].encode(weight, encoding)


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
