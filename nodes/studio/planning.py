"""Step 3: the plan, from headers and statistics alone, while its controls are being moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...calibration import Calibration
from ...converters import LayerDecision, Options, Plan, Recipe, Source, detect_family, load_recipe, make_plan
from ...converters.pins import Pin
from ...converters.recipe import with_pins
from ...converters.sensitivity import Sensitivity
from .. import host, recipes
from ..recipes import AUTO
from . import calibrations, sensitivities
from .anatomy import Part, anatomy
from .asked import Asked, asked
from .headers import opened
from .prediction import Expected, expected, total
from .speed import predicted_speed, table_for

BY_HAND = "pinned by hand"


def planned(body: Mapping[str, Any]) -> dict[str, Any]:
    """A plan with every layer, what is predicted of it, and the totals; see ``asked`` for the fields."""
    wanted = asked(body)
    calibration = calibrations.opened(wanted.calibration) if wanted.calibration else None
    sensitivity = sensitivities.opened(wanted.sensitivity) if wanted.sensitivity else None
    with opened(wanted.source) as source:
        recipe = recipe_of(wanted, source)
        plan = make_plan(source, options_of(wanted, recipe), calibration, wanted.calibration)
        parts = anatomy(wanted.source, source)
    return {"source": wanted.source, **_answer(plan, recipe, parts, calibration, sensitivity, wanted)}


def recipe_of(wanted: Asked, source: Source) -> Recipe:
    """The chosen recipe with the layers pinned by hand; a pin to None takes the recipe's own pin away."""
    base = (
        recipes.read(wanted.recipe)
        if wanted.recipe != AUTO
        else load_recipe(detect_family(source.tensors).default_recipe)
    )
    if not wanted.pins:
        return base
    removed = {module for module, policy in wanted.pins.items() if policy is None}
    base = replace(base, layers={module: pin for module, pin in base.layers.items() if module not in removed})
    pins = {module: Pin(policy, reason=BY_HAND) for module, policy in wanted.pins.items() if policy is not None}
    return with_pins(base, pins, name=base.name, title=base.title)


def options_of(wanted: Asked, recipe: Recipe) -> Options:
    """The core's options."""
    return Options(recipe, wanted.rounding, wanted.input_scale, wanted.layout, wanted.text_encoder)


def _answer(
    plan: Plan,
    recipe: Recipe,
    parts: Mapping[str, Part],
    calibration: Calibration | None,
    sensitivity: Sensitivity | None,
    wanted: Asked,
) -> dict[str, Any]:
    measured = {layer.module: layer for layer in sensitivity.layers} if sensitivity is not None else {}
    inside = [layer for layer in plan.layers if layer.component == "diffusion_model"]
    found = {layer.module: expected(layer, measured.get(layer.module)) for layer in inside}
    sum_of_shares = sum(one.share or 0.0 for one in found.values())
    counts = plan.count()
    return {
        "family": plan.family,
        "family_title": plan.family_title,
        "recipe": plan.recipe,
        "calibration": plan.calibration,
        "source_bytes": plan.source_bytes,
        "output_bytes": plan.output_bytes,
        "formats": counts,
        "warnings": list(plan.warnings),
        "repairs": list(plan.repairs),
        "summary": {
            "ratio": plan.output_bytes / max(1, plan.source_bytes),
            "layers": len(inside),
            "quantized": sum(layer.action == "quantize" for layer in inside),
            "pinned": len(recipe.layers),
            "roundings": dict(Counter(layer.rounding for layer in inside if layer.rounding).most_common()),
            "error": total(found.values(), sensitivity),
        },
        "speed": predicted_speed(plan, calibration, table_for(wanted.kernels, host.gpu_name())),
        "layers": [_row(layer, parts, recipe, found, sum_of_shares) for layer in plan.layers],
        "curve": None,
    }


def _row(
    layer: LayerDecision, parts: Mapping[str, Part], recipe: Recipe, found: Mapping[str, Expected], whole: float
) -> dict[str, Any]:
    own = layer.component == "diffusion_model"
    part = parts.get(layer.module) if own else None
    error = found.get(layer.module) if own else None
    return {
        "name": layer.name,
        "module": layer.module,
        "component": layer.component,
        "block": part.block if part else "",
        "kind": part.kind if part else layer.module,
        "shape": list(layer.shape),
        "source_format": layer.source_format,
        "format": layer.format,
        "action": layer.action,
        "reason": layer.reason,
        "activations": layer.activations,
        "input_scale": layer.input_scale,
        "clip_rate": layer.clip_rate,
        "rounding": layer.rounding,
        "bytes_before": layer.bytes_before,
        "bytes_after": layer.bytes_after,
        "pinned": own and layer.module in recipe.layers,
        "allowed": list(part.allowed) if part else [],
        "predicted": {
            "sqnr_db": error.sqnr_db if error else None,
            "measured": error.measured if error else False,
            "share": error.share / whole if error and error.share and whole else None,
        },
    }
