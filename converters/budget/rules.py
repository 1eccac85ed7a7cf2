"""Hard rules: which policies a measured choice may give each layer."""

from __future__ import annotations

from ..formats import POLICIES
from ..layers import SourceLayer
from ..planning.context import Context
from ..planning.obstacles import obstacle
from .menu import Permitted


def permitted(context: Context, *, beyond_rules: bool = False) -> Permitted:
    """For each module of the diffusion model the policies, beside ``keep``, that nothing forbids.

    Forbidden is what a format cannot hold, what ComfyUI could not load, and what the recipe keeps: layers outside its
    blocks, its edge blocks, widths beyond its limits and, unless ``beyond_rules``, what its rules keep: modulation
    mostly, of which a calibration sees one row an image, and gates whose small errors choose another expert. Which
    format a rule names is a guess that measurement replaces. A pinned layer has its pin alone.
    """
    found = {}
    for layer in context.recognised.layers.values():
        if context.part(layer.weight) != "diffusion_model" or not (layer.is_fp8 or layer.is_plain):
            continue
        module = context.module(layer)
        pin = context.pin(module)
        asked = POLICIES if pin is None else {pin.policy} & POLICIES.keys()
        found[module] = frozenset(
            policy
            for policy in asked
            if obstacle(context, layer, policy) is None
            and (pin or not _forbidden(context, layer, policy, beyond_rules))
        )
    return found


def _forbidden(context: Context, layer: SourceLayer, policy: str, beyond_rules: bool) -> bool:
    why = context.recipe.forbids(layer.weight, layer.shape, policy, context.blocks, beyond_rules=beyond_rules)
    return why is not None
