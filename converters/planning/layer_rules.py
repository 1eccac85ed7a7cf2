"""The decision about one weight: recipe under guard, then what its stored format and calibration allow."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ...calibration import LayerStatistics
from ..containers.layout import TensorSpec
from ..errors import PlanError, SourceError
from ..formats import POLICIES, InputScale, nvfp4, tags
from ..formats.weight import one_a_row
from ..layers import BLOCK_SCALES, SourceLayer
from ..pins import PINNED, Pin
from ..plan import LayerDecision, spec
from ..rounding import pre_quant, rounding_for
from .activations import activation
from .context import Context
from .decided import carried, decided, untouched
from .obstacles import NOT_LINEAR, already, fulfils, obstacle


def decide_layer(context: Context, layer: SourceLayer) -> LayerDecision:
    """Decide one weight of the diffusion model or of a text encoder.

    Raises:
        PlanError: an FP8 layer that should stay has scales that ComfyUI does not read, or a layer has a
            pre_quant_scale and is not NVFP4.
        SourceError: an FP8 layer that should change has scales that are neither one a tensor nor one a row.
    """
    if context.part(layer.weight) != "diffusion_model":
        return _decide_bystander(context, layer)
    module = context.module(layer)
    if not (layer.is_fp8 or layer.is_plain):
        return carried(context, layer, module, already(layer))
    if f"{layer.name}.pre_quant_scale" in layer.companions:
        raise PlanError(
            f"Layer {layer.name} of {context.source.path.name} has a pre_quant_scale, which ComfyUI applies to NVFP4 layers "
            f"only and ignores in {layer.format}; convert from the original without it."
        )
    pin = context.pin(module)
    if pin is None:
        policy, reason = context.recipe.policy(layer.weight, layer.shape, context.blocks)
    else:
        policy, reason = pin.policy, pin.reason or PINNED
    if context.family.no_linear(module):
        policy, reason = "keep", NOT_LINEAR
        if not layer.described:
            return untouched(context, layer, module, reason)
    if policy in POLICIES and (hindrance := obstacle(context, layer, policy)) is not None:
        policy, reason = "keep", hindrance
    if policy in POLICIES and not fulfils(layer, policy):
        return _quantized(context, layer, module, policy, reason)
    if layer.is_fp8:
        return _kept_fp8(context, layer, module, policy, reason)
    return untouched(context, layer, module, reason)


def _quantized(context: Context, layer: SourceLayer, module: str, policy: str, reason: str) -> LayerDecision:
    """A weight that changes. The input of a text encoder's layer is never quantized: it has no input_scale.

    Raises:
        SourceError: its scales are neither one a tensor nor one a row.
    """
    _refuse_block_scales(context, layer.name)
    if layer.scale is not None:
        one_a_row(layer.name, context.source.tensors[layer.scale].shape, layer.shape[0])
    stored = POLICIES[policy]
    inside = context.part(layer.weight) == "diffusion_model"
    pin = context.pin(module) if inside else None
    statistics = context.statistics(module) if inside else None
    exponent = _pinned_exponent(module, pin, statistics)
    scaled = inside and stored.INPUT_SCALE is not InputScale.NONE
    chosen, notes = activation(context, module, exponent) if scaled else (None, ())
    unscaled = stored.INPUT_SCALE is InputScale.NEEDED and (chosen is None or chosen.amax is None)
    tag = tags.tag(stored.NAME, unscaled or not inside, stored.POLICIES[policy])
    name = context.output_name(layer.name)
    outputs = [spec(name, suffix, dtype, shape) for suffix, (dtype, shape) in stored.declare(layer.shape, tag).items()]
    if exponent is not None:
        outputs.append(spec(name, "pre_quant_scale", pre_quant.DTYPE, (layer.shape[1],)))
    decision = decided(context, layer, module, stored.NAME, "quantize", reason, chosen, notes, tag, outputs)
    if stored.NAME != nvfp4.NAME:
        return decision
    method, why = rounding_for(pin.rounding if pin and pin.rounding else context.options.rounding, statistics)
    gain, lacking = _gain(context, module, pin) if inside else (False, "")
    notes = (*notes, *filter(None, (why, lacking)))
    return replace(decision, rounding=method, pre_quant_exponent=exponent, gain=gain, notes=notes)


def _pinned_exponent(module: str, pin: Pin | None, statistics: LayerStatistics | None) -> float | None:
    """The exponent of a pinned pre_quant_scale; 0, which would be all ones, is none.

    Raises:
        PlanError: it is pinned and what was seen of the layer's input does not suffice.
    """
    exponent = pin.pre_quant_exponent if pin is not None and pin.pre_quant_exponent else None
    lacking = pre_quant.missing(statistics) if exponent is not None else None
    if lacking is not None:
        raise PlanError(
            f"Layer {module} is pinned to a pre_quant_scale, which needs more of its input than there is ({lacking}); "
            "calibrate longer, with detail channels or curvature, or leave pre_quant_exponent out."
        )
    return exponent


def _gain(context: Context, module: str, pin: Pin | None) -> tuple[bool, str]:
    """Whether a gain is measured, and why not although it was asked for of the whole file, "" where nothing lacks.

    Raises:
        PlanError: it is pinned, and no input rows were kept to measure it on.
    """
    pinned = pin is not None and pin.gain
    if not (pinned or context.options.gain):
        return False, ""
    if context.rows_kept(module):
        return True, ""
    if pinned:
        raise PlanError(
            f"Layer {module} is pinned to a gain, which is measured on input rows that the calibration does not have; "
            "calibrate with detail curvature, or leave the gain out."
        )
    return False, "no gain: no rows of its input were kept while calibrating"


def _kept_fp8(context: Context, layer: SourceLayer, module: str, policy: str, reason: str) -> LayerDecision:
    """An FP8 layer that stays: weight and scale are copied, and its activations are made safe.

    ComfyUI clamps the input of an FP8 layer without input_scale at ±448. With a calibration such a
    layer gets one; a raw-cast layer that the recipe keeps was computed in full precision before and
    stays so; everything else without a scale is marked for full precision.
    """
    raw = not layer.described
    if raw and policy == "keep" and not context.blocks.contain(layer.weight):
        return untouched(context, layer, module, reason)
    repairs = []
    if layer.scale is None:
        repairs.append("weight_scale = 1 added (values unchanged)")
    if layer.tag is None and layer.scale is not None and layer.scale.endswith(".weight_scale"):
        repairs.append("missing quantization tag added")
    # Tensor cores multiply no two E5M2 matrices.
    stays_full = layer.full_precision or layer.format == "float8_e5m2" or (raw and policy == "keep")
    chosen, notes = (None, ()) if stays_full else activation(context, module)
    stored = layer.input_scale if chosen is None and not stays_full else None
    full_precision = stored is None and (chosen is None or chosen.amax is None)
    if full_precision and not layer.full_precision and not raw:
        repairs.append(
            "full_precision_matrix_mult set: ComfyUI would clamp activations at ±448 or cannot multiply E5M2"
        )
    outputs = _fp8_outputs(context, layer, stored is not None)
    tag = tags.tag(layer.format, full_precision)
    return decided(context, layer, module, layer.format, "copy", reason, chosen, notes, tag, outputs, tuple(repairs))


def _decide_bystander(context: Context, layer: SourceLayer) -> LayerDecision:
    """VAE and unknown parts pass through, with the scales and tags that they have; so do text encoders, unless asked.

    ComfyUI computes text encoders in full precision, so they need no input_scale.
    """
    policy, reason = "keep", context.part(layer.weight).replace("_", " ")
    encoder = context.encoder(layer)
    if encoder is not None and (layer.is_fp8 or layer.is_plain):
        policy, reason = encoder.policy(layer, context.options.text_encoder)
    if policy in POLICIES and 0 not in layer.shape and not fulfils(layer, policy):
        return _quantized(context, layer, layer.name, policy, reason)
    if layer.is_fp8:
        linear = encoder is not None and not encoder.family.no_linear(encoder.module(layer))
        return _fp8_bystander(context, layer, linear, reason)
    if layer.is_plain:
        return untouched(context, layer, layer.name, reason)
    return carried(context, layer, layer.name, reason)


def _fp8_bystander(context: Context, layer: SourceLayer, linear: bool, reason: str) -> LayerDecision:
    """An FP8 weight that nobody asked for: its bytes and those of all its scales, whatever their form.

    What a mixed-precision text encoder asks for and lacks is added to a ``linear`` layer of one: the scale 1 of
    a raw cast, and the tag without which ComfyUI reads no scale. The legacy form becomes today's, as everywhere.
    """
    tensors = context.source.tensors
    outputs = [context.unchanged(layer.weight), *map(context.unchanged_companion, layer.companions)]
    tag, repairs = layer.tag, []
    legacy = layer.scale is not None and layer.scale.endswith(".scale_weight")
    one_scale = layer.scale is None or math.prod(tensors[layer.scale].shape) == 1
    if linear and one_scale and f"{layer.name}.{BLOCK_SCALES}" not in tensors:
        if layer.scale is None:
            outputs.append(spec(context.output_name(layer.name), "weight_scale", torch.float32, ()))
            repairs.append("weight_scale = 1 added (values unchanged)")
        elif tag is None and not legacy:
            repairs.append("missing quantization tag added")
        tag = tag or tags.tag(layer.format, layer.full_precision)
    elif legacy:
        tag = tag or tags.tag(layer.format, layer.full_precision)
    return decided(context, layer, layer.name, layer.format, "copy", reason, None, (), tag, outputs, tuple(repairs))


def check_block_scales(context: Context) -> None:
    """Refuse a diffusion model with block-wise scales; elsewhere they pass through.

    Raises:
        SourceError: a layer has them.
    """
    for name in context.source.tensors:
        layer, _, suffix = name.rpartition(".")
        if suffix == BLOCK_SCALES and context.part(name) == "diffusion_model":
            _refuse_block_scales(context, layer)


def _refuse_block_scales(context: Context, layer: str) -> None:
    if f"{layer}.{BLOCK_SCALES}" in context.source.tensors:
        raise SourceError(
            f"{context.source.path}: layer {layer} has block-wise scales ({BLOCK_SCALES}), which ComfyUI does not read; "
            "convert from another release of this model."
        )


def _fp8_outputs(context: Context, layer: SourceLayer, with_input_scale: bool) -> list[TensorSpec]:
    """The declarations of an FP8 weight that stays, with its weight_scale and, if it keeps it, its input_scale."""
    name = context.output_name(layer.name)
    shape = context.source.tensors[layer.scale].shape if layer.scale else ()
    if one_a_row(layer.name, shape, layer.shape[0]):
        raise PlanError(
            f"Layer {layer.name} has {math.prod(shape)} weight scales and should stay FP8, but ComfyUI reads one a tensor; "
            "choose a recipe that makes it NVFP4 (weight-only)."
        )
    outputs = [context.unchanged(layer.weight), spec(name, "weight_scale", torch.float32, shape)]
    return [*outputs, spec(name, "input_scale", torch.float32, ())] if with_input_scale else outputs
