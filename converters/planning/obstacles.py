"""What no recipe can change: weights that a format cannot hold or that ComfyUI could not load in it."""

from __future__ import annotations

import math

from ..errors import PlanError
from ..formats import POLICIES
from ..layers import SourceLayer
from ..tags import FP8_FORMATS
from .context import Context

_GUARDED = "ComfyUI reads the model's size from this shape"
NOT_LINEAR = "not a linear layer"
_MANY_SCALES = "FP8 with more than one weight scale, and ComfyUI reads one a tensor"


def obstacle(context: Context, layer: SourceLayer, policy: str) -> str | None:
    """Why a weight of the diffusion model cannot have this policy, in a few words; None when it can.

    ``policy`` is a key of ``POLICIES``; keeping a weight as it is has no obstacle.
    """
    module = context.module(layer)
    if not (layer.is_fp8 or layer.is_plain):
        return None if layer.format == POLICIES[policy].NAME else already(layer)
    if context.family.no_linear(module):
        return NOT_LINEAR
    if 0 in layer.shape:
        return "an empty matrix"
    if fulfils(layer, policy) and many_scales(context, layer):
        return _MANY_SCALES
    stored = POLICIES[policy]
    fields = stored.POLICIES[policy]
    refusal = stored.refusal(layer.shape, fields)
    if refusal is not None:
        return refusal
    changes_shape = stored.declare(layer.shape, fields)["weight"][1] != layer.shape
    return _GUARDED if changes_shape and context.family.guards(module) else None


def already(layer: SourceLayer) -> str:
    """Why a weight that is no float is carried over."""
    return f"{layer.format} already" if layer.described else "no float weight"


def fulfils(layer: SourceLayer, policy: str) -> bool:
    """True when an FP8 weight fulfils a policy as it stands."""
    return layer.is_fp8 and POLICIES[policy].NAME in FP8_FORMATS.values()


def many_scales(context: Context, layer: SourceLayer) -> bool:
    """True for FP8 that can change but not stay: with one scale a row, where ComfyUI reads one a tensor."""
    return layer.is_fp8 and layer.scale is not None and math.prod(context.source.tensors[layer.scale].shape) != 1


def check_pins(context: Context) -> None:
    """Every layer that the recipe pins is there and can be what it is pinned to.

    Raises:
        PlanError: with the first that is not or cannot.
    """
    layers = {
        context.module(layer): layer
        for layer in context.recognised.layers.values()
        if context.part(layer.weight) == "diffusion_model"
    }
    for module, pin in context.recipe.layers.items():
        if module not in layers:
            raise PlanError(
                f"Recipe {context.recipe.name} pins layer {module[:200]!r}, which {context.source.path.name} does not have; "
                "it was made for another model, or the name has a key prefix too many."
            )
        hindrance = obstacle(context, layers[module], pin.policy) if pin.policy in POLICIES else None
        if hindrance is not None:
            raise PlanError(
                f"Recipe {context.recipe.name} pins layer {module} to {pin.policy}, which it cannot be ({hindrance}); "
                "pin it to keep or remove the pin."
            )
