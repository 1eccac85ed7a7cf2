"""Which part of the noise schedule was seen, and where in it the layers peak."""

from __future__ import annotations

from ...calibration import PASSES, SCHEDULE_BINS
from ...calibration.report import CalibrationReport
from .canvas import (
    BLUE,
    FAINT,
    INK,
    MARGIN,
    MUTED,
    NORMAL,
    ORANGE,
    SMALL,
    WIDTH,
    Picture,
    blank,
    blend,
    count_axis,
    font,
    legend,
)
from .heat import Key, heat_map
from .ranges import MOST

HEIGHT = 360
AXIS = "noise level (0 = clean, 1 = full noise)"


def schedule_plot(report: CalibrationReport) -> Picture:
    """A column for each part of the noise schedule: evaluations of the model, by pass."""
    note = f"{report.steps} steps in {report.samplings} samplings; {report.coverage.schedule_seen:.0%} of the schedule seen"
    image, draw = blank("Model evaluations by noise level", HEIGHT, note=note)
    legend(draw, list(zip(PASSES, (BLUE, ORANGE), strict=True)), MARGIN, MARGIN + 52)
    left, right, top, bottom = 76, WIDTH - MARGIN, MARGIN + 112, HEIGHT - 52
    totals = [sum(row[place] for row in report.schedule) for place in range(SCHEDULE_BINS)]
    most = max(1, *totals)
    count_axis(draw, most, (left, top, right, bottom), "evaluations")
    wide = (right - left) / SCHEDULE_BINS
    for place, total in enumerate(totals):
        x, base = left + place * wide, float(bottom)
        if not total:
            draw.rectangle((x + 3, top, x + wide - 3, bottom), FAINT)
            draw.text((x + wide / 2, (top + bottom) / 2), "not\nseen", MUTED, font(SMALL), anchor="mm", align="center")
        for row, colour in zip(report.schedule, (BLUE, ORANGE), strict=True):
            height = row[place] / most * (bottom - top)
            if height:
                draw.rectangle((x + 3, base - height, x + wide - 3, base), colour)
            base -= height
    for place in range(0, SCHEDULE_BINS + 1, 2):
        level = f"{place / SCHEDULE_BINS:.3g}"
        draw.text((left + place * wide, bottom + 6), level, MUTED, font(SMALL), anchor="ma")
    draw.line((left, bottom, right, bottom), MUTED)
    draw.text(((left + right) / 2, bottom + 25), AXIS, INK, font(NORMAL), anchor="ma")
    return image


def profile_plot(report: CalibrationReport) -> Picture | None:
    """How large each type's inputs are along the schedule; None when no noise level is known."""
    kinds = sorted(report.kinds, key=lambda kind: -kind.largest)[:MOST]
    rows = [(kind.kind, kind.profile) for kind in kinds if any(part is not None for part in kind.profile)]
    if not rows:
        return None
    key = Key(
        "largest at this noise level over largest at all",
        lambda part: part,
        blend([(247, 251, 255), (107, 174, 214), (8, 48, 107)]),
        ((0.0, "0"), (0.5, "0.5"), (1.0, "1 (peak)")),
    )
    columns = [f"{place / SCHEDULE_BINS:.2f}" for place in range(SCHEDULE_BINS)]
    note = "Median over the layers of a type. A peak beside an unseen part may continue there."
    return heat_map("Where in the schedule the inputs peak", note, rows, columns, f"from {AXIS}", key)
