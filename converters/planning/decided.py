"""Decisions as they are put down: of a weight that changes, one that stays, one that is carried over quantized."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...calibration import ActivationRange, input_scale
from ..containers.layout import TensorSpec
from ..errors import PlanError
from ..formats import nvfp4, tags
from ..layers import NEEDED, SourceLayer
from ..plan import LayerDecision, spec
from .context import Context


def carried(context: Context, layer: SourceLayer, module: str, reason: str) -> LayerDecision:
    """A weight that is quantized already keeps its bytes, all its scales and its tag.

    NVFP4 that lost its tag gets one: without it ComfyUI takes the packed bytes for plain weights.

    Raises:
        PlanError: a tensor is missing without which ComfyUI refuses the layer.
    """
    for suffix in NEEDED.get(layer.format, ()):
        if f"{layer.name}.{suffix}" not in context.source.tensors:
            raise PlanError(
                f"Layer {layer.name} of {context.source.path.name} is {layer.format} without its {suffix}; "
                "the file is damaged, get it from its author again."
            )
    lost = layer.tag is None and layer.format == nvfp4.NAME
    tag, repairs = (tags.tag(nvfp4.NAME, False), ("missing quantization tag added",)) if lost else (layer.tag, ())
    outputs = [context.unchanged(name) for name in (layer.weight, *layer.companions)]
    return decided(context, layer, module, layer.format, "copy", reason, None, (), tag, outputs, repairs)


def untouched(context: Context, layer: SourceLayer, module: str, reason: str) -> LayerDecision:
    """A weight that stays as it is and needs no scales."""
    repairs = ("scales of a weight that is not quantized removed",) if layer.companions else ()
    outputs = [context.unchanged(layer.weight)]
    return decided(context, layer, module, layer.format, "copy", reason, None, (), None, outputs, repairs)


def stored_bytes(context: Context, layer: SourceLayer) -> int:
    """Bytes of a weight in the source, with all that describes it."""
    tensors = context.source.tensors
    own = [*layer.companions, f"{layer.name}.comfy_quant"]
    return tensors[layer.weight].nbytes + sum(tensors[key].nbytes for key in own if key in tensors)


def decided(
    context: Context,
    layer: SourceLayer,
    module: str,
    target: str,
    action: str,
    reason: str,
    chosen: ActivationRange | None,
    notes: tuple[str, ...],
    tag: Mapping[str, object] | None,
    outputs: list[TensorSpec],
    repairs: tuple[str, ...] = (),
) -> LayerDecision:
    """A decision with the tensors that tag and activations add to ``outputs``, those of the weight.

    Args:
        target: the format that the weight will have.
        chosen: the range of the input, None for one that is not scaled.
    """
    name = context.output_name(layer.name)
    amax = chosen.amax if chosen is not None else None
    if amax is not None:
        outputs.append(spec(name, "input_scale", torch.float32, ()))
    if tag is not None:
        outputs.append(spec(name, "comfy_quant", torch.uint8, (len(tags.encode(tag)),)))
    return LayerDecision(
        name=name,
        source_name=layer.name,
        module=module,
        component=context.part(layer.weight),
        shape=layer.shape,
        source_format=layer.format,
        format=target,
        action=action,
        reason=reason,
        tag=tag,
        input_amax=amax,
        input_scale=input_scale(amax, target) if amax is not None else None,
        clip_rate=chosen.clip_rate if chosen is not None and amax is not None else None,
        repairs=repairs,
        notes=notes,
        bytes_before=stored_bytes(context, layer),
        outputs=tuple(outputs),
    )
