"""What the calibration saw, so that one can judge how far its input scales carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...calibration import calibration_report
from .errors import CardError

if TYPE_CHECKING:
    from ...calibration import Calibration


def describe_calibration(calibration: Calibration, name: str, made: dict[str, Any] | None) -> dict[str, Any]:
    """Coverage of layers and noise schedule. Raises CardError when the file was made with one of another name.

    made: what the converted file says of itself, None where it says nothing. A header holds no more than the name.
    """
    used = made.get("calibration") if made else None
    if made is not None and used != name:
        raise CardError(
            f"The file was converted with {f'the calibration {used}' if used else 'no calibration'}, and not with {name}: "
            "give that one, or leave --calibration out."
        )
    report = calibration_report(calibration)
    coverage = report.coverage
    return {
        "name": name,
        "images": report.images,
        "samplings": report.samplings,
        "steps": report.steps,
        "layers_seen": coverage.observed,
        "layers": coverage.total,
        "schedule_seen_percent": round(100 * coverage.schedule_seen, 2),
        "schedule_unseen": coverage.missing_ranges(),
        "advice": report.advice(),
        "unobserved": dict(sorted(report.unobserved.items())),
    }
