"""The part of a verification that tells how faithful the file is: of outputs where rows of input were kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .errors import CardError

NUMBERS = ("rel_rmse", "cosine", "rmse", "largest")
COUNTS = ("linear_layers", "quantized_layers", "measured_layers")
GRADES = "as close as A FP8, B NVFP4 well rounded, C NVFP4 by nearest rounding, D up to twice that, E further"


def describe_fidelity(found: object, path: Path) -> dict[str, Any] | None:
    """{"of", "grade", "grades", counts, "mean", "groups"}; None where the verification is of an older version.

    Relative errors are also told in percent. Raises CardError for anything else.
    """
    if found is None:
        return None
    groups = found.get("groups") if isinstance(found, dict) else None
    if (
        not isinstance(found, dict)
        or not isinstance(groups, list)
        or not all(isinstance(found.get(key), str) and len(found[key]) < 40 for key in ("of", "grade"))
        or not all(isinstance(found.get(key), int) for key in COUNTS)
    ):
        raise CardError(f"{path} tells no fidelity that this nvfp4-studio reads: verify the file again with it.")
    return {
        "of": found["of"],
        "grade": found["grade"],
        "grades": GRADES,
        **{key: found[key] for key in COUNTS},
        "mean": _numbers(found.get("mean"), path),
        "groups": [
            {"kind": str(group.get("kind"))[:200], "layers": group.get("layers"), **_numbers(group, path)}
            for group in groups
            if isinstance(group, dict)
        ],
    }


def _numbers(found: object, path: Path) -> dict[str, Any]:
    values = {name: found.get(name) for name in NUMBERS} if isinstance(found, dict) else {}
    wrong = [
        name for name, value in values.items() if not _is_number(value) and not (name == "largest" and value is None)
    ]
    if wrong or not values:
        raise CardError(f"{path} has no {wrong[0] if wrong else 'mean'} in its fidelity: verify the file again.")
    return {**values, "rel_rmse_percent": round(100 * values["rel_rmse"], 6)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
