"""Decide every layer: recipe under guard, source format, calibration. Pure: reads headers and tags only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .. import __version__
from ..calibration import ActivationRange, Calibration, activation_range, input_scale
from ..calibration import POLICIES as INPUT_SCALE_POLICIES
from .errors import PlanError
from .families import Family, component, detect_family
from .formats import fp8, nvfp4, tags
from .layers import METADATA_KEY, Recognised, SourceLayer, recognise
from .plan import LAYOUTS, Copy, LayerDecision, Options, Plan, spec
from .recipe import Blocks, Recipe, load_recipe
from .rounding import rounding
from .source import Source, TensorInfo
from .writer import TensorSpec

PROVENANCE_KEY = "nvfp4_studio"
STALE_METADATA = (METADATA_KEY, PROVENANCE_KEY, "modelspec.hash_sha256")
"""Header entries of the source that describe bytes which the output does not have."""

NOT_LINEAR = ("embed", "shared.", "relative_attention_bias", "lm_head")
"""Two-dimensional text encoder weights that are tables, told by name; a raw FP8 table needs no scale."""


@dataclass(frozen=True)
class _Context:
    source: Source
    recognised: Recognised
    family: Family
    recipe: Recipe
    blocks: Blocks
    options: Options
    calibration: Calibration | None

    def output_name(self, name: str) -> str:
        prefix = self.family.prefix
        return name[len(prefix) :] if self.options.layout == "diffusion-model" and name.startswith(prefix) else name


def make_plan(
    source: Source,
    options: Options | None = None,
    calibration: Calibration | None = None,
    calibration_name: str | None = None,
) -> Plan:
    """Decide what a conversion of ``source`` will write.

    Args:
        source: an open checkpoint.
        options: the user's choices; None for all defaults.
        calibration: statistics of the same model, or None for dynamic activation scales.
        calibration_name: how to call it in plan, report and header; "calibration" when not given.

    Raises:
        PlanError: unknown option, a calibration of another model, a source that is NVFP4 already, or
            a recipe that matches no layer.
        SourceError: damaged tags.
    """
    options = options or Options()
    _check(options)
    rounding(options.rounding)
    recognised = recognise(source)
    family = detect_family(source.tensors)
    context = _Context(
        source=source,
        recognised=recognised,
        family=family,
        recipe=load_recipe(options.recipe or family.default_recipe),
        blocks=Blocks.find(
            name for name in recognised.weights() if component(name, family.prefix) == "diffusion_model"
        ),
        options=options,
        calibration=calibration,
    )
    if options.layout == "checkpoint" and not family.prefix:
        raise PlanError(f"{source.path.name} has no key prefix, so it is no all-in-one checkpoint; use layout diffusion-model.")
    warnings = _calibration_warnings(context) if calibration is not None else []
    layers = tuple(
        _decide(context, layer)
        for layer in recognised.layers.values()
        if component(layer.weight, family.prefix) == "diffusion_model"
        or (component(layer.weight, family.prefix) == "text_encoder" and options.layout != "diffusion-model")
    )
    if not any(layer.format == nvfp4.NAME and layer.action == "quantize" for layer in layers):
        raise PlanError(
            f"Recipe {context.recipe.name} makes no layer of {source.path.name} ({family.title}) NVFP4; "
            "choose another recipe, for example generic or weight-only."
        )
    copies = _copies(context, layers)
    plan = Plan(
        source=source.path.name,
        family=family.name,
        family_title=family.title,
        prefix=family.prefix,
        recipe=context.recipe.name,
        options=options,
        calibration=(calibration_name or "calibration") if calibration is not None else None,
        layers=layers,
        copies=copies,
        metadata={},
        repairs=tuple(_repairs(context, layers)),
        warnings=tuple(warnings + _layer_warnings(layers)),
        source_bytes=source.size,
    )
    return plan.with_metadata(_metadata(context, plan)).with_size()


def _check(options: Options) -> None:
    if options.layout not in LAYOUTS:
        raise PlanError(f"There is no layout {options.layout!r}; choose one of {', '.join(LAYOUTS)}.")
    if options.input_scale not in INPUT_SCALE_POLICIES:
        raise PlanError(
            f"There is no input_scale policy {options.input_scale!r}; choose one of {', '.join(INPUT_SCALE_POLICIES)}."
        )


def _calibration_warnings(context: _Context) -> list[str]:
    """Compare the calibration with the source; raise when it belongs to another model.

    Some models rename a few keys while they load, so single unknown names are only a warning; other
    shapes, or more unknown names than known ones, mean another model.
    """
    assert context.calibration is not None
    prefix = context.family.prefix
    shapes = {
        layer.name[len(prefix) :]: layer.shape
        for layer in context.recognised.layers.values()
        if component(layer.weight, prefix) == "diffusion_model"
    }
    unknown = []
    for name, statistics in context.calibration.layers.items():
        shape = shapes.get(name)
        if shape is None:
            unknown.append(name)
        elif context.recognised.layers[prefix + name].format != nvfp4.NAME and shape != (
            statistics.out_features,
            statistics.in_features,
        ) and statistics.in_features > 0:
            raise PlanError(
                f"The calibration is of another model: layer {name} has {statistics.out_features}×{statistics.in_features} "
                f"there and {shape[0]}×{shape[1]} in {context.source.path.name}; choose this model's calibration."
            )
    if len(unknown) * 2 > len(context.calibration.layers) or not context.calibration.layers:
        example = f", for example {unknown[0]}" if unknown else ""
        raise PlanError(
            f"The calibration is of another model: {len(unknown)} of its {len(context.calibration.layers)} layers are not in "
            f"{context.source.path.name}{example}; choose this model's calibration."
        )
    return [f"calibrated layer {name} is not in the source" for name in unknown]


def _layer_warnings(layers: tuple[LayerDecision, ...]) -> list[str]:
    return [f"{layer.name}: {note}" for layer in layers for note in layer.notes]


def _decide(context: _Context, layer: SourceLayer) -> LayerDecision:
    if component(layer.weight, context.family.prefix) == "text_encoder":
        return _decide_text_encoder(context, layer)
    module = layer.name[len(context.family.prefix) :]
    if not (layer.is_fp8 or layer.is_plain):
        raise PlanError(
            f"{context.source.path.name} holds {layer.format} already (layer {layer.name}); convert from the FP8 or BF16 original."
        )
    policy, reason = context.recipe.policy(layer.weight, layer.shape, context.blocks)
    if policy == nvfp4.NAME and context.family.guards(module):
        policy, reason = "keep", "ComfyUI reads the model's size from this shape"
    if policy == nvfp4.NAME:
        return _quantized(context, layer, module, nvfp4.NAME, reason)
    if policy == fp8.NAME and layer.is_plain:
        return _quantized(context, layer, module, fp8.NAME, reason)
    if layer.is_fp8:
        return _kept_fp8(context, layer, module, policy, reason)
    return _untouched(context, layer, module, reason)


def _quantized(context: _Context, layer: SourceLayer, module: str, target: str, reason: str) -> LayerDecision:
    chosen, notes = _activation(context, module)
    full_precision = target == fp8.NAME and (chosen is None or chosen.amax is None)
    declared = (nvfp4 if target == nvfp4.NAME else fp8).declare(layer.shape)
    name = context.output_name(layer.name)
    outputs = [spec(name, suffix, dtype, shape) for suffix, (dtype, shape) in declared.items()]
    return _decision(
        context, layer, module, target, "quantize", reason, chosen, notes, tags.tag(target, full_precision), outputs
    )


def _kept_fp8(context: _Context, layer: SourceLayer, module: str, policy: str, reason: str) -> LayerDecision:
    """An FP8 layer that stays: weight and scale are copied, and its activations are made safe.

    ComfyUI clamps the input of an FP8 layer without input_scale at ±448. With a calibration such a
    layer gets one; a raw-cast layer that the recipe keeps was computed in full precision before and
    stays so; everything else without a scale is marked for full precision.
    """
    raw = layer.tag is None and layer.scale is None
    if raw and policy == "keep" and not context.blocks.contain(layer.weight):
        return _untouched(context, layer, module, reason)
    repairs = []
    if layer.scale is None:
        repairs.append("weight_scale = 1 added (values unchanged)")
    if layer.tag is None and layer.scale is not None and layer.scale.endswith(".weight_scale"):
        repairs.append("missing quantization tag added")
    chosen, notes = (None, ()) if (raw or layer.full_precision) and policy == "keep" else _activation(context, module)
    carried = layer.input_scale if chosen is None and not layer.full_precision else None
    full_precision = carried is None and (chosen is None or chosen.amax is None)
    if full_precision and not layer.full_precision and not raw:
        repairs.append("full_precision_matrix_mult set: no input_scale, ComfyUI would clamp activations at ±448")
    name = context.output_name(layer.name)
    outputs = [_same(context, layer.weight), _scale_spec(context, layer, name)]
    if carried is not None:
        outputs.append(spec(name, "input_scale", torch.float32, ()))
    return _decision(
        context, layer, module, layer.format, "copy", reason, chosen, notes,
        tags.tag(layer.format, full_precision), outputs, tuple(repairs),
    )  # fmt: skip


def _decide_text_encoder(context: _Context, layer: SourceLayer) -> LayerDecision:
    """Text encoders pass through; ComfyUI computes them in full precision, so they need no input_scale."""
    name = context.output_name(layer.name)
    if layer.is_fp8 and (layer.tag is not None or layer.scale is not None or not any(t in name for t in NOT_LINEAR)):
        repairs = () if layer.scale else ("weight_scale = 1 added (values unchanged)",)
        outputs = [_same(context, layer.weight), _scale_spec(context, layer, name)]
        if layer.input_scale is not None:
            outputs.append(spec(name, "input_scale", torch.float32, ()))
        tag = tags.tag(layer.format, layer.full_precision)
        return _decision(context, layer, layer.name, layer.format, "copy", "text encoder", None, (), tag, outputs, repairs)
    if layer.is_plain or layer.tag is None:
        return _untouched(context, layer, layer.name, "text encoder")
    companions = [key for key in context.recognised.descriptions if key.rpartition(".")[0] == layer.name]
    outputs = [_same(context, key) for key in (layer.weight, *sorted(companions)) if not key.endswith(".comfy_quant")]
    return _decision(
        context, layer, layer.name, layer.format, "copy", "text encoder", None, (), dict(layer.tag), outputs
    )


def _untouched(context: _Context, layer: SourceLayer, module: str, reason: str) -> LayerDecision:
    return _decision(
        context, layer, module, layer.format, "copy", reason, None, (), None, [_same(context, layer.weight)]
    )


def _decision(
    context: _Context,
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
    name = context.output_name(layer.name)
    amax = chosen.amax if chosen is not None else None
    if amax is not None:
        outputs.append(spec(name, "input_scale", torch.float32, ()))
    if tag is not None:
        outputs.append(spec(name, "comfy_quant", torch.uint8, (len(tags.encode(tag)),)))
    own = [key for key in context.recognised.descriptions if key.rpartition(".")[0] == layer.name]
    tensors = context.source.tensors
    return LayerDecision(
        name=name,
        source_name=layer.name,
        module=module,
        component=component(layer.weight, context.family.prefix),
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
        bytes_before=tensors[layer.weight].nbytes + sum(tensors[key].nbytes for key in own),
        outputs=tuple(outputs),
    )


def _activation(context: _Context, module: str) -> tuple[ActivationRange | None, tuple[str, ...]]:
    if context.calibration is None:
        return None, ()
    statistics = context.calibration.layers.get(module)
    if statistics is None or statistics.calls == 0:
        return None, ("was never seen while calibrating, so its activations stay dynamic (NVFP4) or in full precision (FP8)",)
    chosen = activation_range(statistics, context.options.input_scale)
    notes = [chosen.note] if chosen.guarded and chosen.note else []
    if statistics.nonfinite:
        notes.append(f"{statistics.nonfinite} NaN or infinite activations were left out of its statistics")
    return chosen, tuple(notes)


def _same(context: _Context, name: str) -> TensorSpec:
    info = context.source.tensors[name]
    return TensorSpec(context.output_name(name), info.torch_dtype, info.shape)


def _scale_spec(context: _Context, layer: SourceLayer, name: str) -> TensorSpec:
    info: TensorInfo | None = context.source.tensors[layer.scale] if layer.scale else None
    count = 1
    for side in info.shape if info else ():
        count *= side
    if count != 1:
        raise PlanError(
            f"Layer {layer.name} has {count} weight scales and should stay FP8, but ComfyUI reads one a tensor; "
            "choose a recipe that makes it NVFP4 (weight-only)."
        )
    return spec(name, "weight_scale", torch.float32, info.shape if info else ())


def _copies(context: _Context, layers: tuple[LayerDecision, ...]) -> tuple[Copy, ...]:
    """Everything that is neither a layer's weight nor describes one."""
    weights = {f"{layer.source_name}.weight" for layer in layers}
    copies = []
    for name in context.source.tensors:
        part = component(name, context.family.prefix)
        left_out = context.options.layout == "diffusion-model" and part != "diffusion_model"
        if not (left_out or name in weights or name in context.recognised.descriptions):
            copies.append(Copy(name, _same(context, name)))
    return tuple(copies)


def _repairs(context: _Context, layers: tuple[LayerDecision, ...]) -> list[str]:
    """One line for each kind of repair."""
    kinds: dict[str, list[str]] = {}
    for layer in layers:
        for repair in layer.repairs:
            kinds.setdefault(repair, []).append(layer.name)
    owners = {layer.source_name for layer in layers}
    stale = sorted(key for key in context.recognised.descriptions if key.rpartition(".")[0] not in owners)
    if context.options.layout == "diffusion-model":
        stale = [key for key in stale if component(key, context.family.prefix) == "diffusion_model"]
    lines = [f"{repair}: {len(names)} layers, first {names[0]}" for repair, names in kinds.items()]
    if stale:
        lines.append(f"stale quantization tensors removed: {len(stale)}, first {stale[0]}")
    header = context.source.metadata.get(METADATA_KEY)
    if header is not None:
        named = json.loads(header).get("layers", {})
        gone = [name for name in named if name not in owners and name not in context.recognised.carried]
        if gone:
            lines.append(f"header entries that no longer apply removed: {len(gone)}, first {gone[0]}")
    return lines


def _metadata(context: _Context, plan: Plan) -> dict[str, str]:
    """The output's header metadata: the source's own, the tags of all layers, and how the file was made."""
    entries: dict[str, Mapping[str, object]] = {
        context.output_name(name): tag
        for name, tag in context.recognised.carried.items()
        if context.options.layout != "diffusion-model" or component(name, context.family.prefix) == "diffusion_model"
    }
    entries.update({layer.name: layer.tag for layer in plan.layers if layer.tag is not None})
    made = {
        "version": __version__,
        "source": plan.source,
        "family": plan.family,
        "recipe": plan.recipe,
        "rounding": plan.options.rounding,
        "input_scale": plan.options.input_scale,
        "calibration": plan.calibration,
    }
    kept = {key: value for key, value in context.source.metadata.items() if key not in STALE_METADATA}
    return {**kept, METADATA_KEY: tags.header(entries), PROVENANCE_KEY: json.dumps(made)}
