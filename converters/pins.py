"""Layers of a recipe that are pinned one by one, as a budgeted plan or a hand does.

In a recipe's file ``layers`` maps a layer's name, without the model's key prefix as calibrations call it, to

* ``policy``: as in a rule;
* ``rounding``: the method of a weight that becomes NVFP4, in the place of the one chosen for the whole file;
* ``pre_quant_exponent``: number from 0 to 1, the power of each channel's activation size that becomes the layer's
  ``pre_quant_scale`` (Lin et al., AWQ, arXiv 2306.00978, search the same range); NVFP4 only, because ComfyUI ignores
  the tensor in other formats;
* ``gain``: true for a constant gain folded into ``weight_scale_2``; NVFP4 only;
* ``reason``: a few words for plan and report.

A pin comes before the rules and their limits, but not before what a model family must keep: a pin that cannot be
carried out is an error and never quietly something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import formats
from .errors import PlanError
from .rounding import ROUNDINGS

PINNED = "pinned in the recipe"
MAX_REASON = 300


@dataclass(frozen=True)
class Pin:
    """What a recipe says about one layer. ``rounding`` "" is the method chosen for the whole file."""

    policy: str
    rounding: str = ""
    pre_quant_exponent: float | None = None
    gain: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The pin as a recipe's file has it: what is not said is left out."""
        said = {
            "rounding": self.rounding,
            "pre_quant_exponent": self.pre_quant_exponent,
            "gain": self.gain,
            "reason": self.reason,
        }
        return {"policy": self.policy, **{key: value for key, value in said.items() if value not in ("", None, False)}}


def parse_pins(recipe: str, data: Any) -> dict[str, Pin]:
    """Check the ``layers`` of a recipe's file.

    Raises:
        PlanError: with the layer and the field that is wrong, and what is expected there.
    """
    if not isinstance(data, dict):
        raise PlanError(f'Recipe {recipe}: "layers" maps layers to their policies, not {str(data)[:80]!r}.')
    return {layer: _parse(f"Recipe {recipe}: layer {layer[:200]!r}", fields) for layer, fields in data.items()}


def _parse(where: str, data: Any) -> Pin:
    if not isinstance(data, dict) or data.get("policy") not in ("keep", *formats.POLICIES):
        found = data.get("policy") if isinstance(data, dict) else data
        raise PlanError(
            f"{where} has the policy {str(found)[:40]!r}; nvfp4-studio writes {', '.join(('keep', *formats.POLICIES))}."
        )
    for key, value in data.items():
        if key == "policy":
            continue
        if key not in _FIELDS:
            raise PlanError(f"{where} has the field {key[:40]!r}; a layer has policy, {', '.join(_FIELDS)}.")
        accepted, expected = _FIELDS[key]
        if not accepted(value):
            raise PlanError(f'{where}: "{key}" must be {expected}, not {str(value)[:40]!r}.')
    pin = Pin(**data)
    if (pin.rounding or pin.pre_quant_exponent is not None or pin.gain) and pin.policy != formats.nvfp4.NAME:
        raise PlanError(
            f"{where} is {pin.policy} and has no rounding, pre_quant_exponent or gain, which belong to NVFP4; leave them out."
        )
    return pin


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rounding": (lambda value: isinstance(value, str) and value in ROUNDINGS, f"one of {', '.join(ROUNDINGS)}"),
    "pre_quant_exponent": (lambda value: type(value) in (int, float) and 0 <= value <= 1, "a number from 0 to 1"),
    "gain": (lambda value: isinstance(value, bool), "true or false"),
    "reason": (
        lambda value: isinstance(value, str) and len(value) <= MAX_REASON,
        f"a text of at most {MAX_REASON} characters",
    ),
}
