"""How large the layers' inputs are: by type, and along the blocks."""

from __future__ import annotations

import math

from ...calibration import DEFAULT_POLICY
from ...calibration.report import CalibrationReport, KindReport
from .canvas import (
    BLUE,
    INK,
    LIGHT_BLUE,
    MARGIN,
    MUTED,
    NORMAL,
    ORANGE,
    SMALL,
    WIDTH,
    LogAxis,
    Picture,
    blank,
    blend,
    dashed,
    diamond,
    font,
    legend,
    plain,
    shortened,
    text_width,
)
from .heat import Key, heat_map

ROW = 24
LABELS = 330
MOST = 40
"""Types shown, those with the largest inputs: a model has about 15, a mixed file more."""
FP8_LIMIT = 448.0
BLOCKS = 4
OCTAVES = 3
"""The colours of `depth_plot` span an eighth to eight times the median."""


def range_plot(report: CalibrationReport) -> Picture:
    """A row for each layer type: smallest to largest amax, their median, and the stored ranges."""
    kinds = _shown(report)
    note = f"{report.summary}" + (
        f" (the {MOST} largest of {len(report.kinds)} types)" if kinds != _sorted(report) else ""
    )
    top = MARGIN + 98
    bottom = top + ROW * max(1, len(kinds))
    image, draw = blank(f"{report.name}: largest input by layer type", bottom + 56, note=note)
    entries = [
        ("amax of its layers", LIGHT_BLUE),
        ("their median", BLUE),
        (f"range stored by {DEFAULT_POLICY}", ORANGE),
    ]
    legend(draw, entries, MARGIN, MARGIN + 54)
    left = MARGIN + min(LABELS, max((text_width(_label(kind)) for kind in kinds), default=0)) + 16
    values = [value for kind in kinds for value in (kind.smallest, kind.largest, *(kind.ranges or ()))]
    axis = LogAxis.over(values, left, WIDTH - MARGIN - 90)
    axis.draw(draw, top, bottom, "largest magnitude of the layer's input (amax), logarithmic")
    draw.text((WIDTH - MARGIN, top - 20), "largest", MUTED, font(SMALL), anchor="ra")
    if axis.low < FP8_LIMIT < axis.high:
        dashed(draw, axis.x(FP8_LIMIT), top - 4, bottom, INK)
        draw.text((axis.x(FP8_LIMIT), top - 20), "448: FP8 without input_scale clips", INK, font(SMALL), anchor="ma")
    if not kinds:
        draw.text((left, top + ROW // 2), "no layer was observed", MUTED, font(NORMAL), anchor="lm")
    for row, kind in enumerate(kinds):
        y = top + row * ROW + ROW // 2
        draw.text((left - 10, y), shortened(_label(kind), LABELS), INK, font(NORMAL), anchor="rm")
        if kind.largest <= 0:
            draw.text((left + 6, y), "zero in every call", MUTED, font(SMALL), anchor="lm")
            continue
        draw.rectangle((axis.x(kind.smallest) - 2, y - 5, axis.x(kind.largest) + 2, y + 5), LIGHT_BLUE)
        draw.rectangle((axis.x(kind.median) - 2, y - 7, axis.x(kind.median) + 2, y + 7), BLUE)
        if kind.ranges:
            draw.line((axis.x(kind.ranges[0]), y, axis.x(kind.ranges[1]), y), ORANGE, 2)
            for value in kind.ranges:
                diamond(draw, axis.x(value), y, ORANGE)
        draw.text((WIDTH - MARGIN, y), plain(float(f"{kind.largest:.4g}")), INK, font(NORMAL), anchor="rm")
    return image


def depth_plot(report: CalibrationReport) -> Picture | None:
    """A cell for each layer, types down and blocks across, by how far it is from its type's median.

    Types of fewer than four layers are left out; None when that leaves nothing.
    """
    kinds = [kind for kind in _shown(report) if len(kind.layers) >= BLOCKS]
    if not kinds:
        return None
    amax = {layer.name: layer.amax for layer in report.layers}
    most = max(len(kind.layers) for kind in kinds)
    rows = []
    for kind in kinds:
        ratios = [amax[name] / kind.median if kind.median > 0 else None for name in _in_order(kind.layers)]
        rows.append((kind.kind, [*ratios, *[None] * (most - len(ratios))]))
    key = Key(
        "amax over the type's median",
        lambda ratio: (math.log2(ratio) / OCTAVES + 1) / 2 if ratio > 0 else 0.0,
        blend([BLUE, (146, 197, 222), (250, 250, 250), (244, 165, 130), (178, 50, 0)]),
        ((0.0, "1/8"), (0.333, "1/2"), (0.5, "1"), (0.667, "2"), (1.0, "8 and more")),
    )
    note = "Single dark cells are outliers; a gradient along a row is the model's depth."
    return heat_map(
        "Where the outliers are",
        note,
        rows,
        [str(place) for place in range(most)],
        "block, counted within its type",
        key,
    )


def _sorted(report: CalibrationReport) -> list[KindReport]:
    return sorted(report.kinds, key=lambda kind: -kind.largest)


def _shown(report: CalibrationReport) -> list[KindReport]:
    return _sorted(report)[:MOST]


def _label(kind: KindReport) -> str:
    return kind.kind if len(kind.layers) == 1 else f"{kind.kind}  ({len(kind.layers)})"


def _in_order(names: tuple[str, ...]) -> list[str]:
    """By the numbers in the names: block 2 comes before block 10."""
    return sorted(names, key=lambda name: [int(part) for part in name.split(".") if part.isdecimal()])
