"""The error to expect of each planned layer: measured where a sensitivity knows it, else typical of its format."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from ...converters import LayerDecision
from ...converters.sensitivity import Choice, LayerSensitivity, decibels, outcome_of
from ...converters.typical import typical_sqnr_db


@dataclass(frozen=True)
class Expected:
    """``error``: relative squared error, 0 where nothing changes. ``share``: what it adds to the model's.

    ``measured``: of the layer's own output, on rows that calibration kept; otherwise it is the weight error that the
    format typically has.
    """

    error: float
    share: float
    measured: bool

    @property
    def sqnr_db(self) -> float | None:
        """-10·log10 of the error, None where nothing changes."""
        return decibels(self.error) if self.error > 0 else None


def expected(layer: LayerDecision, measured: LayerSensitivity | None, known: Container[Choice] = ()) -> Expected:
    """What to expect of one layer. ``known``: the choices that the sensitivity has of any layer, see ``outcome_of``."""
    if measured is not None and not measured.fixed:
        outcome = outcome_of(measured, layer, known)
        if outcome is not None:
            return Expected(measured.error(outcome), measured.share(outcome), True)
    if layer.action != "quantize":
        return Expected(0.0, 0.0, False)
    typical = typical_sqnr_db(layer.format, layer.rounding)
    error = 10 ** (-typical / 10) if typical is not None else 0.0
    return Expected(error, error, False)


def total(found: Iterable[Expected], quality_db: float | None) -> dict[str, Any]:
    """All layers together: the model's predicted error where all was measured, else a typical mean.

    ``of`` says whose SQNR it is: that of the model's ``output``, of the ``layers``' own outputs, or of the ``weights``,
    which says less than it seems: GPTQ takes more error of the weights for less error of the outputs.
    """
    changed = [one for one in found if one.error > 0]
    if quality_db is not None:
        return {
            "sqnr_db": quality_db,
            "of": "output",
            "measured": True,
            "is": "predicted error of the model's output",
        }
    if not changed:
        return {"sqnr_db": None, "of": "weights", "measured": False, "is": "no layer changes"}
    measured = all(one.measured for one in changed)
    return {
        "sqnr_db": decibels(math.fsum(one.error for one in changed) / len(changed)),
        "of": "layers" if measured else "weights",
        "measured": measured,
        "is": "mean error of the layers that change"
        if measured
        else "mean weight error that is typical of these formats; measure a sensitivity to know this model's",
    }
