"""A sweep as tables, one for each phase."""

from __future__ import annotations

import math

from ...calibration import Section
from ..fidelity import OUTPUTS, grade_words
from ..sensitivity import WEIGHTINGS
from .evaluation import PHASE_TITLES, Row, SweepResult

HEAD = ("id", "method", "rounding", "target", "size", "compression", "x FP8", "quality", "mean rel. RMSE", "verdict")


def sweep_sections(found: SweepResult) -> list[Section]:
    """What was compared, the configurations by phase, and what could not be planned."""
    sensitivity = found.sensitivity
    error = "that of the model's output, predicted"
    if not sensitivity.influence_measured:
        error = "the sum of the layers' own, far above that of the model's output: influence was not measured"
    lines = (
        f"{len(found.rows) - 1} configurations of {found.source}, predicted from the outputs of its layers on the rows "
        f"of calibration {sensitivity.calibration}; nothing was written for it.",
        f"Quality: dB by which the output exceeds its error, of which more is closer; the error is {error}. Mean rel. RMSE: of the outputs of the changed layers.",
        f"Rows that were seen at different noise, weighting {sensitivity.weighting}: {WEIGHTINGS[sensitivity.weighting]}.",
        f"Speed: by the table {sensitivity.kernels}, times that of the same model in FP8; a dash where ComfyUI has no kernel.",
        f"Verdict: the grade of the mean rel. RMSE, as `verify` gives it: {grade_words(OUTPUTS)}. Pictures have the last word.",
    )
    phases = [(phase, [row for row in found.rows if row.phase == phase]) for phase in PHASE_TITLES]
    sections = [
        Section(f"Phase {phase}: {PHASE_TITLES[phase]}" if phase else "Source", (), HEAD, tuple(map(_cells, rows)))
        for phase, rows in phases
        if rows
    ]
    if found.left_out:
        left_out = tuple(f"{name}: {why}" for name, why in found.left_out.items())
        sections.append(Section("Left out", left_out))
    return [Section("Sweep", lines), *sections]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.id,
        row.method,
        row.rounding or "-",
        row.target or "-",
        f"{row.bytes / 1e6:.2f} MB" if row.bytes < 1e8 else f"{row.bytes / 1e9:.2f} GB",
        f"{row.compression:.2f}x",
        "-" if row.speed is None else f"{row.speed:.2f}",
        f"{row.error_db:.1f} dB" if math.isfinite(row.error_db) else "no error",
        f"{row.rel_rmse:.2%}",
        row.verdict,
    )
