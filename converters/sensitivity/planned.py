"""What a measurement knows of a plan: the outcome of every layer as it would be written."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from ..formats import nvfp4, policy_of
from ..plan import LayerDecision, Plan
from .values import KEEP, Choice, LayerSensitivity, Outcome, Sensitivity


def outcomes_of_plan(sensitivity: Sensitivity, plan: Plan, *, complete: bool = False) -> dict[str, Outcome | None]:
    """The measured outcome of every module with the format, rounding, pre_quant_scale and gain that a plan gives it.

    None where that was not measured, and where the plan has no such layer.

    Args:
        complete: the measurement was asked for every rounding of the plan, see ``outcome_of``.
    """
    decisions = {layer.module: layer for layer in plan.layers if layer.component == "diffusion_model"}
    known = None if complete else sensitivity.choices
    return {
        layer.module: outcome_of(layer, decisions[layer.module], known) if layer.module in decisions else None
        for layer in sensitivity.layers
    }


def outcome_of(layer: LayerSensitivity, decision: LayerDecision, known: Container[Choice] | None) -> Outcome | None:
    """The measured outcome of one decision, None where there is none.

    A method that did worse than nearest on a layer's held-out rows is not told of it: a conversion takes nearest there,
    and so does this. A pre_quant_scale or a gain that was not measured counts as nothing.

    Args:
        known: the choices that some layer has, by which a method that lost is told from one that was not asked for;
            None when every one was asked for.
    """
    for policy in policies_of(decision):
        asked = Choice(policy)
        if policy == nvfp4.NAME:
            asked = Choice(policy, decision.rounding, decision.pre_quant_exponent, decision.gain)
        for choice in (asked, replace(asked, pre_quant_exponent=None, gain=False)):
            found = layer.outcome(choice)
            if found is None and (known is None or choice in known):
                found = layer.outcome(replace(choice, rounding="nearest"))
            if found is not None:
                return found
    return None


def policies_of(decision: LayerDecision) -> tuple[str, ...]:
    """What a measurement may call the format of a decision, the closest name first.

    FP8 that stays FP8 was measured as such where ComfyUI quantizes its input, and else as what is kept.
    """
    policy = policy_of(decision.format, decision.tag or {})
    if decision.action == "quantize":
        return (policy,) if policy is not None else ()
    computed = policy is not None and decision.tag is not None and not decision.full_precision
    return (policy, KEEP) if policy is not None and computed else (KEEP,)
