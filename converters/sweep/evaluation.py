"""What a configuration would be: size, speed, error, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..fidelity import OUTPUTS, grade_limits, grade_of
from ..options import Options
from ..sensitivity import KEEP, Outcome, Sensitivity, decibels

PHASES = ((7.5, 1), (3.9, 2), (0.0, 3))
"""By bits for each changed weight, scales included: eight and more, about four (mixtures with eight too), fewer."""
PHASE_TITLES = {
    0: "the source",
    1: "eight bits and more for a changed weight",
    2: "from four bits",
    3: "fewer than four bits",
}
VERDICTS = {
    "A": "as close as FP8",
    "B": "as close as well rounded NVFP4",
    "C": "as close as nearest NVFP4",
    "D": "up to twice as far",
    "E": "far, or a broken layer",
}


@dataclass(frozen=True)
class Row:
    """One configuration.

    ``phase``, ``id``: see ``PHASES``; ids count from "1a" by falling quality. ``bytes``: of the whole file; a
    simulated one has the header of NVFP4. ``speed``: predicted, times FP8; None where ComfyUI has no kernel. ``error``: predicted
    relative squared error of the model's output. ``rel_rmse``: mean over the changed layers' own outputs. ``bits``: for a
    changed weight. ``formats``: layers of each. ``beaten_by``: id of a configuration for ComfyUI that is no larger and
    closer, "" for none.
    """

    name: str
    method: str
    rounding: str
    target: str
    phase: int
    bytes: int
    source_bytes: int
    speed: float | None
    error: float
    rel_rmse: float
    bits: float
    grade: str
    formats: Mapping[str, int]
    simulated: bool
    id: str = ""
    beaten_by: str = ""

    @property
    def error_db(self) -> float:
        return decibels(self.error)

    @property
    def compression(self) -> float:
        return self.source_bytes / self.bytes if self.bytes else math.inf

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.phase == 0:
            return "the reference"
        told = f"{self.grade}: {VERDICTS[self.grade]}"
        if self.beaten_by:
            told += f"; {self.beaten_by} is closer and no larger"
        return f"{told} (simulated: ComfyUI cannot run it)" if self.simulated else told

    def to_json(self) -> dict[str, Any]:
        quality = self.error_db
        return {
            **asdict(self),
            "error_db": round(quality, 4) if math.isfinite(quality) else None,
            "compression": round(self.compression, 4),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class SweepResult:
    """Everything that was compared.

    ``options``: by name, of the conversion that would write each file; simulated ones have none. ``left_out``: names with
    the reason why there is no plan.
    """

    source: str
    family: str
    sensitivity: Sensitivity
    rows: tuple[Row, ...]
    options: Mapping[str, Options]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """All rows with the thresholds behind their verdicts."""
        return {
            "format": "nvfp4-studio-sweep",
            "version": 1,
            "source": self.source,
            "family": self.family,
            "calibration": self.sensitivity.calibration,
            "weighting": self.sensitivity.weighting,
            "kernels": self.sensitivity.kernels,
            "phases": {str(phase): title for phase, title in PHASE_TITLES.items()},
            "grades": grade_limits(OUTPUTS),
            "rows": [row.to_json() for row in self.rows],
            "left_out": dict(self.left_out),
        }

    def row(self, name: str) -> Row | None:
        """By name or id."""
        return next((row for row in self.rows if name in (row.name, row.id)), None)


def evaluated(
    name: str,
    method: str,
    rounding: str,
    target: str,
    sensitivity: Sensitivity,
    chosen: Mapping[str, Outcome],
    size: int,
    source_bytes: int,
    *,
    simulated: bool = False,
) -> Row:
    """The row of one choice for every module."""
    changed = [layer for layer in sensitivity.layers if chosen[layer.module].choice.policy != KEEP]
    weights = sum(layer.shape[0] * layer.shape[1] for layer in changed)
    bits = 8 * sum(chosen[layer.module].bytes for layer in changed) / weights if weights else 0.0
    errors = [math.sqrt(layer.error(chosen[layer.module])) for layer in changed]
    mean = math.fsum(errors) / len(errors) if errors else 0.0
    formats: dict[str, int] = {}
    for outcome in chosen.values():
        formats[outcome.choice.policy] = formats.get(outcome.choice.policy, 0) + 1
    return Row(
        name=name,
        method=method,
        rounding=rounding,
        target=target,
        phase=next(phase for least, phase in PHASES if bits >= least) if changed else 0,
        bytes=size,
        source_bytes=source_bytes,
        speed=None if simulated else sensitivity.speed_of(chosen),
        error=sensitivity.error_of(chosen),
        rel_rmse=mean,
        bits=bits,
        grade=grade_of(errors, OUTPUTS),
        formats=formats,
        simulated=simulated,
    )


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """By phase and falling quality, with ids, and with who beats whom."""
    ordered = sorted(rows, key=lambda row: (row.phase, row.error, row.bytes))
    named: list[Row] = []
    for row in ordered:
        place = sum(other.phase == row.phase for other in named)
        named.append(replace(row, id="0" if row.phase == 0 else f"{row.phase}{_letters(place)}"))
    return tuple(replace(row, beaten_by=_beaten_by(row, named)) for row in named)


def _beaten_by(row: Row, rows: Sequence[Row]) -> str:
    better = [other for other in rows if not other.simulated and other.bytes <= row.bytes and other.error < row.error]
    return min(better, key=lambda other: other.error).id if row.phase and better else ""


def _letters(place: int) -> str:
    """a … z, aa, ab …"""
    before = _letters(place // 26 - 1) if place >= 26 else ""
    return before + chr(ord("a") + place % 26)
