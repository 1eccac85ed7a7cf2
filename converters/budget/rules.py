"""Hard rules: which policies a measured choice may give each layer."""

from __future__ import annotations

from ..context import Context
from ..formats import POLICIES
from ..obstacles import obstacle
from .menu import Permitted


def permitted(context: Context) -> Permitted:
    """For each module of the diffusion model the policies, beside ``keep``, that nothing forbids.

    Forbidden is what a format cannot hold, what ComfyUI could not load, and what the recipe keeps: layers outside its
    blocks, its edge blocks, its rules with the policy ``keep``, widths beyond its limits. Which format a rule names
    is a guess that measurement replaces. A pinned layer has its pin alone.
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
            and (pin or context.recipe.forbids(layer.weight, layer.shape, policy, context.blocks) is None)
        )
    return found
