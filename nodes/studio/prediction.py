"""The error to expect of each planned layer: measured where a sensitivity knows it, else typical of its format."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...converters import LayerDecision
from ...converters.formats import POLICIES
from ...converters.sensitivity import KEEP, Choice, LayerSensitivity, Sensitivity, decibels
from ...converters.typical import typical_sqnr_db


@dataclass(frozen=True)
class Expected:
    """``share``: of the model's relative squared error, by which layers compare; ``sqnr_db`` is −10·log10 of it.

    None where nothing is changed. ``measured``: of this model's own output error on rows that calibration kept;
    otherwise the weight error that the format typically has.
    """

    share: float | None
    measured: bool

    @property
    def sqnr_db(self) -> float | None:
        return decibels(self.share) if self.share else None


def policy_of(layer: LayerDecision) -> str:
    """The policy that asks for what was decided."""
    if layer.action != "quantize":
        return KEEP
    tag = layer.tag or {}
    fitting = [
        policy
        for policy, stored in POLICIES.items()
        if layer.format == stored.NAME and all(tag.get(key) == value for key, value in stored.POLICIES[policy].items())
    ]
    return max(fitting, key=lambda policy: len(POLICIES[policy].POLICIES[policy]), default=KEEP)


def expected(layer: LayerDecision, measured: LayerSensitivity | None) -> Expected:
    """What to expect of one layer."""
    policy = policy_of(layer)
    if measured is not None and not measured.fixed:
        choice = Choice(policy, layer.rounding, layer.pre_quant_exponent, layer.gain)
        outcome = measured.outcome(choice)
        if outcome is not None:
            return Expected(measured.share(outcome), True)
    if policy == KEEP:
        return Expected(None, False)
    typical = typical_sqnr_db(layer.format, layer.rounding)
    return Expected(10 ** (-typical / 10) if typical is not None else None, False)


def total(found: Iterable[Expected], sensitivity: Sensitivity | None) -> dict[str, Any]:
    """All layers together: the model's predicted error when everything that changes was measured, else a mean."""
    changed = [one for one in found if one.share]
    whole = sensitivity is not None and all(one.measured for one in changed)
    shares = math.fsum(one.share or 0.0 for one in changed)
    if not changed:
        return {"sqnr_db": None, "measured": whole, "is": "no layer changes"}
    if whole:
        return {"sqnr_db": decibels(shares), "measured": True, "is": "predicted error of the model's output"}
    return {
        "sqnr_db": decibels(shares / len(changed)),
        "measured": False,
        "is": "mean weight error that is typical of these formats; measure a sensitivity to know this model's",
    }
