"""How far the weights are from the source's: from the conversion's report, a verification, or measured now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...converters import Verification
from ...converters.groups import error_groups
from ...converters.measure import LayerError
from ..text import one_line
from .errors import CardError
from .fidelity import describe_fidelity
from .reading import read_object


def from_report(path: Path, name: str, size: int) -> dict[str, Any]:
    """From the report that a conversion wrote beside its file. Raises CardError when it is of another file."""
    found = read_object(path, "the report of a conversion, NAME.report.json")
    summary, plan = found.get("summary"), found.get("plan")
    if not isinstance(summary, dict) or not isinstance(plan, dict) or not isinstance(plan.get("layers"), list):
        raise CardError(f"{path} is no report of a conversion: move it away, or convert again.")
    _require_this_file(f"{path} is the report", found.get("output"), summary.get("output_bytes"), name, size)
    errors = [
        _layer({**layer, **layer["error"]}, path)
        for layer in plan["layers"]
        if isinstance(layer, dict) and isinstance(layer.get("error"), dict)
    ]
    names = [str(layer.get("name")) for layer in plan["layers"] if isinstance(layer, dict)]
    measured = _summary(errors, found.get("verified_tensors"), found.get("problems"), "the conversion's report", names)
    warnings = plan.get("warnings")
    return {
        **measured,
        "warnings": [one_line(str(text)) for text in warnings][:20] if isinstance(warnings, list) else [],
    }


def from_verification(path: Path, name: str, size: int) -> dict[str, Any]:
    """From what `nvfp4-studio verify --json` printed; with --activations it tells the errors of outputs too.

    Raises CardError when it is of another file.
    """
    found = read_object(path, "what nvfp4-studio verify --json printed")
    layers = found.get("layers")
    if not isinstance(layers, list) or "good" not in found:
        raise CardError(f"{path} is no verification: give what nvfp4-studio verify --json printed.")
    _require_this_file(f"{path} is the verification", found.get("target"), found.get("target_bytes"), name, size)
    errors = [_layer(layer, path) for layer in layers]
    measured = _summary(errors, found.get("tensors"), found.get("problems"), "nvfp4-studio verify")
    return {**measured, "warnings": [], "fidelity": describe_fidelity(found.get("fidelity"), path)}


def from_measuring(found: Verification) -> dict[str, Any]:
    """From a verification made for the card."""
    measured = _summary(list(found.layers), found.tensors, list(found.problems), "measured for this card")
    return {**measured, "warnings": []}


def layer_plot_rows(measured: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """(layer, SQNR in dB, format) of every changed layer."""
    return [(layer["name"], layer["sqnr_db"], layer["format"]) for layer in measured["layers"] if layer["sqnr_db"]]


def _summary(
    errors: Sequence[LayerError], tensors: object, problems: object, source: str, names: Sequence[str] = ()
) -> dict[str, Any]:
    verification = Verification(tuple(errors), (), 0)
    worst = verification.worst()
    return {
        "from": source,
        "verified_tensors": tensors if isinstance(tensors, int) else None,
        "problems": [one_line(str(text)) for text in problems] if isinstance(problems, list) else [],
        "changed_layers": sum(layer.sqnr_db is not None for layer in errors),
        "unchanged_layers": sum(layer.sqnr_db is None for layer in errors),
        "main_format": verification.main_format(),
        "mean_sqnr_db": verification.mean_sqnr_db(),
        "worst_sqnr_db": worst.sqnr_db if worst else None,
        "worst_layer": worst.name if worst else None,
        "groups": [
            {**group, "mean_rel_rmse_percent": round(100 * group["mean_rel_rmse"], 6)}
            for group in error_groups(errors, names)
        ],
        "layers": [{"name": layer.name, "format": layer.format, "sqnr_db": layer.sqnr_db} for layer in errors],
    }


def _require_this_file(what: str, its_name: object, its_size: object, name: str, size: int) -> None:
    if (its_name, its_size) != (name, size):
        raise CardError(
            f"{what} of {one_line(str(its_name), 100)} with {one_line(str(its_size), 20)} bytes, and not of this file with "
            f"{size}: move it away, or make it again."
        )


def _layer(found: object, path: Path) -> LayerError:
    values = found if isinstance(found, dict) else {}
    texts = [values.get(field) for field in ("name", "source_format", "format")]
    sqnr = values.get("sqnr_db")
    numbers = [values.get("rel_rmse"), values.get("cosine"), 0.0 if sqnr is None else sqnr]
    if not all(isinstance(text, str) for text in texts) or not all(map(_is_number, numbers)):
        raise CardError(f"{path} has a layer without its error: make it again with this version of nvfp4-studio.")
    name, source_format, stored = (one_line(str(text)) for text in texts)
    rel_rmse, cosine = float(values["rel_rmse"]), float(values["cosine"])
    return LayerError(name, source_format, stored, bool(values.get("identical")), sqnr, rel_rmse, cosine)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
