"""Step 3: the plan, from headers, statistics and a few rows of weights, while its controls are being moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...converters import LayerDecision
from .. import hardware, host
from ..recipes import AUTO
from ..texts import plan_notes
from .anatomy import Part, anatomy
from .asked import Asked, asked
from .deciding import Decided, decide
from .fitting import fitting
from .headers import opened
from .prediction import Expected, expected, total
from .speed import measured_speed, predicted_speed, table_for


def planned(body: Mapping[str, Any]) -> dict[str, Any]:
    """A plan with every layer, what is predicted of it, and the totals; see ``asked`` for the fields.

    ``fitting`` names calibrations of this source where none was asked for.
    """
    wanted = asked(body)
    with opened(wanted.source) as source:
        decided = decide(wanted, source)
        parts = anatomy(wanted.source, source)
        offered = [] if wanted.calibration else fitting(source)
    return {"source": wanted.source, "fitting": offered, **_answer(decided, parts, wanted)}


def _answer(decided: Decided, parts: Mapping[str, Part], wanted: Asked) -> dict[str, Any]:
    plan, sensitivity = decided.plan, decided.sensitivity
    measured = {layer.module: layer for layer in sensitivity.layers} if sensitivity is not None else {}
    inside = [layer for layer in plan.layers if layer.component == "diffusion_model"]
    known = sensitivity.choices if sensitivity is not None else frozenset()
    found = {layer.module: expected(layer, measured.get(layer.module), known) for layer in inside}
    whole = sum(one.share for one in found.values())
    return {
        "family": plan.family,
        "family_title": plan.family_title,
        "recipe": wanted.recipe if wanted.recipe != AUTO else decided.base.name,
        "calibration": plan.calibration,
        "source_bytes": plan.source_bytes,
        "output_bytes": plan.output_bytes,
        "formats": plan.count(),
        "warnings": [*plan.warnings, *plan_notes(hardware.own_device(), nvfp4="nvfp4" in plan.count())],
        "repairs": list(plan.repairs),
        "summary": {
            "ratio": plan.output_bytes / max(1, plan.source_bytes),
            "layers": len(inside),
            "quantized": sum(layer.action == "quantize" for layer in inside),
            "pinned": len(decided.base.layers),
            "roundings": dict(Counter(layer.rounding for layer in inside if layer.rounding).most_common()),
            "error": total(found.values(), _quality(decided)),
        },
        "speed": _speed(decided, wanted),
        "layers": [_row(layer, parts, decided, found, whole) for layer in plan.layers],
        "curve": decided.curves.to_json() if decided.curves is not None else None,
    }


def _quality(decided: Decided) -> float | None:
    """The predicted error of the model's output in dB, where it was measured how layers' errors reach it."""
    if decided.totals is None or decided.sensitivity is None or not decided.sensitivity.influence_measured:
        return None
    return decided.totals.to_json()["quality_db"]


def _speed(decided: Decided, wanted: Asked) -> dict[str, Any]:
    sensitivity, totals = decided.sensitivity, decided.totals
    table = table_for(sensitivity.kernels if sensitivity is not None else wanted.kernels, host.gpu_name())
    predicted = predicted_speed(decided.plan, decided.calibration, table)
    if sensitivity is None or totals is None:
        return predicted
    return {**predicted, **measured_speed(sensitivity, totals.speed)}


def _row(
    layer: LayerDecision, parts: Mapping[str, Part], decided: Decided, found: Mapping[str, Expected], whole: float
) -> dict[str, Any]:
    own = layer.component == "diffusion_model"
    part = parts.get(layer.module) if own else None
    error = found.get(layer.module) if own else None
    seen = decided.calibration.layers.get(layer.module) if own and decided.calibration is not None else None
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
        "pinned": own and layer.module in decided.base.layers,
        "histogram": seen is not None and bool(seen.element_magnitude.any()),
        "allowed": list(part.allowed) if part else [],
        "predicted": {
            "sqnr_db": error.sqnr_db if error else None,
            "measured": error is not None and error.measured,
            "share": error.share / whole if error and error.share else None,
        },
    }
