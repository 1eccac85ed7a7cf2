"""A plan as a page asks for it, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...calibration import POLICIES
from ...converters import LAYOUTS, PRE_QUANT_CHOICES, ROUNDINGS, TEXT_ENCODER_CHOICES, Options
from ...converters.recipe import POLICIES as FORMAT_POLICIES
from ..guard import Refused
from ..recipes import AUTO
from .fields import MAX_NAME, choice_in, flag_in, name_in, optional_name

MAX_BUDGET = 100
DEFAULTS = Options()
"""What NVFP4Convert starts with."""


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for. ``pins`` maps a module to a policy, or to None for "as the recipe's rules say"."""

    source: str
    calibration: str | None
    recipe: str
    input_scale: str
    rounding: str
    layout: str
    text_encoder: str
    pre_quant: str
    gain: bool
    pins: Mapping[str, str | None]
    budget: str | None
    sensitivity: str | None
    kernels: str | None


def asked(body: Mapping[str, Any]) -> Asked:
    """Read the fields of a request; what is left out has its default."""
    budget = body.get("budget")
    if budget is not None and not (isinstance(budget, str) and len(budget) <= MAX_BUDGET):
        raise Refused(400, 'The "budget" must be a text such as size<=12GB.')
    return Asked(
        source=name_in(body, "source"),
        calibration=optional_name(body, "calibration"),
        recipe=optional_name(body, "recipe") or AUTO,
        input_scale=choice_in(body, "input_scale", POLICIES, DEFAULTS.input_scale),
        rounding=choice_in(body, "rounding", ROUNDINGS, DEFAULTS.rounding),
        layout=choice_in(body, "layout", LAYOUTS, DEFAULTS.layout),
        text_encoder=choice_in(body, "text_encoder", TEXT_ENCODER_CHOICES, DEFAULTS.text_encoder),
        pre_quant=choice_in(body, "pre_quant", PRE_QUANT_CHOICES, DEFAULTS.pre_quant),
        gain=flag_in(body, "gain"),
        pins=_pins(body.get("pins")),
        budget=budget.strip() or None if budget is not None else None,
        sensitivity=optional_name(body, "sensitivity"),
        kernels=optional_name(body, "kernels"),
    )


def _pins(pins: Any) -> Mapping[str, str | None]:
    if pins is None:
        return {}
    if not isinstance(pins, dict):
        raise Refused(400, '"pins" must map layers to policies.')
    for module, policy in pins.items():
        if not 0 < len(module) <= MAX_NAME:
            raise Refused(400, '"pins" must name layers as the plan does.')
        if policy is not None and policy not in FORMAT_POLICIES:
            raise Refused(
                400,
                f"Layer {module[:200]!r} is pinned to {str(policy)[:40]!r}: choose one of {', '.join(FORMAT_POLICIES)}.",
            )
    return pins
