"""Decide every layer: recipe under guard, source format, calibration.

Reads headers and tags, and with a calibration four rows of each calibrated layer; what was read is remembered with the source.
"""

from __future__ import annotations

from dataclasses import replace

from ...calibration import POLICIES as INPUT_SCALE_POLICIES
from ...calibration import Calibration
from ..encoders import find_encoders
from ..errors import PlanError
from ..families import component, detect_family
from ..layers import recognise
from ..options import LAYOUTS, Options
from ..other_files import is_lora, is_vae
from ..plan import LayerDecision, Plan, notes_of
from ..recipe import Blocks, Recipe
from ..recipe_file import available_recipes, content_of, load_recipe
from ..rounding import OFF, PRE_QUANT_CHOICES, check_rounding
from ..source import Source
from .activations import check_calibration
from .context import Context
from .layer_rules import check_block_scales, decide_layer
from .obstacles import check_pins
from .passthrough import constants_of, copies_of, metadata_of, repairs_of


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
        PlanError: unknown option, a calibration of another model, a source that is NVFP4 already, a recipe that
            matches no layer, or a layer pinned to what it cannot be.
        SourceError: damaged tags, or FP8 weights with scales that cannot be read.
    """
    context = context_of(source, options or Options(), calibration)
    recipe, family, options = context.recipe, context.family, context.options
    warnings = check_calibration(context)
    _check_measurable(context)
    layers = _decided(context)
    if not any(layer.action == "quantize" for layer in layers):
        done = next((layer for layer in layers if layer.reason.endswith("already")), None)
        if done is not None:
            raise PlanError(
                f"{source.path.name} holds {done.format} already (layer {done.source_name}) and nothing else to convert; "
                "convert from the FP8 or BF16 original."
            )
        raise _nothing(context)
    plan = Plan(
        source=source.path.name,
        family=family.name,
        family_title=family.title,
        prefix=family.prefix,
        recipe=recipe.name,
        recipe_content=content_of(recipe),
        options=options,
        calibration=(calibration_name or "calibration") if calibration is not None else None,
        layers=layers,
        copies=copies_of(context, layers),
        constants=constants_of(context),
        metadata={},
        repairs=tuple(repairs_of(context, layers)),
        warnings=(*warnings, *notes_of({layer.name: layer.notes for layer in layers})),
        source_bytes=source.size,
    )
    return plan.with_metadata(metadata_of(context, plan)).with_size()


def context_of(source: Source, options: Options, calibration: Calibration | None) -> Context:
    """What decisions about the layers of ``source`` look at, with the options checked.

    Raises:
        PlanError: unknown option, a LoRA or a VAE, a source whose layers ComfyUI renames, or a layer pinned to what it
            cannot be.
        SourceError: damaged tags, or FP8 weights with scales that cannot be read.
    """
    _check(options)
    check_rounding(options.rounding)
    _check_kind(source)
    recognised = recognise(source)
    family = detect_family(source.tensors)
    if family.name == "diffusers" or (source.diffusers and family.name == "generic"):
        raise PlanError(
            f"{source.path.name} has the key names of diffusers, which ComfyUI renames and joins while it loads them "
            "and cannot with packed weights; convert the model's single-file release for ComfyUI instead."
        )
    recipe = options.recipe
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe or family.default_recipe)
    context = Context(
        source=source,
        recognised=recognised,
        family=family,
        recipe=recipe,
        blocks=Blocks.find(
            name for name in recognised.weights() if component(name, family.prefix) == "diffusion_model"
        ),
        options=options,
        calibration=calibration,
        encoders=find_encoders(source, options.text_encoder),
    )
    if options.layout == "checkpoint" and not family.prefix:
        raise PlanError(
            f"{source.path.name} has no key prefix, so it is no all-in-one checkpoint; use layout diffusion-model."
        )
    check_block_scales(context)
    check_pins(context)
    return context


def _check_kind(source: Source) -> None:
    """Raises PlanError for a file that is no model by itself, however many matrices a recipe would find in it."""
    if is_lora(source.tensors):
        raise PlanError(
            f"{source.path.name} is a LoRA, which cannot be converted by itself; merge it into its model and convert that, "
            "or convert the model and load the LoRA on top."
        )
    if is_vae(source.tensors):
        raise PlanError(
            f"{source.path.name} is a VAE, which ComfyUI does not load quantized; choose the diffusion model instead."
        )


def _nothing(context: Context) -> PlanError:
    """No layer would change: with the first recipe that changes one, those for any model before other models' own."""
    recipe, file, title = context.recipe.name, context.source.path.name, context.family.title
    for other in dict.fromkeys((context.family.default_recipe, "generic", "weight-only", *available_recipes())):
        if _quantizes(replace(context, recipe=load_recipe(other), calibration=None)):
            return PlanError(
                f"Recipe {recipe} quantizes no layer of {file} ({title}); choose another recipe, for example {other}."
            )
    return PlanError(
        f"Recipe {recipe} quantizes no layer of {file} ({title}), and no other recipe would; choose another source."
    )


def _quantizes(context: Context) -> bool:
    """Whether a layer would change; none does with a recipe that cannot be carried out."""
    try:
        return any(layer.action == "quantize" for layer in _decided(context))
    except PlanError:
        return False


def _decided(context: Context) -> tuple[LayerDecision, ...]:
    return tuple(
        decide_layer(context, layer)
        for layer in context.recognised.layers.values()
        if context.kept(layer.weight) and (layer.described or context.part(layer.weight) != "other")
    )


def _check(options: Options) -> None:
    if options.layout not in LAYOUTS:
        raise PlanError(f"There is no layout {options.layout!r}; choose one of {', '.join(LAYOUTS)}.")
    if options.layout == "diffusion-model" and options.text_encoder != "keep":
        raise PlanError(
            "Layout diffusion-model leaves text encoders out, so there is none to convert; choose one of both."
        )
    if options.input_scale not in INPUT_SCALE_POLICIES:
        raise PlanError(
            f"There is no input_scale policy {options.input_scale!r}; choose one of {', '.join(INPUT_SCALE_POLICIES)}."
        )
    if options.pre_quant not in PRE_QUANT_CHOICES:
        raise PlanError(
            f"There is no pre_quant choice {options.pre_quant!r}; choose one of {', '.join(PRE_QUANT_CHOICES)}."
        )


def _check_measurable(context: Context) -> None:
    """Raises PlanError when something was asked for that is measured on input rows, and none were kept of any layer."""
    asked = ["pre_quant_scale"] * (context.options.pre_quant != OFF) + ["gain"] * context.options.gain
    calibrated = context.calibration.layers if context.calibration is not None else {}
    if asked and not any(context.rows_kept(module) for module in calibrated):
        found = "the calibration has none" if calibrated else "there is no calibration"
        raise PlanError(
            f"A {asked[0]} is measured on input rows of layers, and {found}; calibrate with detail curvature, or leave it out."
        )
