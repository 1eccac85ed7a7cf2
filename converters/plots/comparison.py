"""Two calibrations in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import ImageDraw

from ...calibration.comparison import Comparison, KindChange, distance, factor, times
from .canvas import (
    BLUE,
    INK,
    LIGHT_BLUE,
    MARGIN,
    MUTED,
    NORMAL,
    ORANGE,
    RED,
    SMALL,
    WIDTH,
    Colour,
    LogAxis,
    Picture,
    blank,
    count_axis,
    font,
    legend,
    shortened,
    stacked,
    text_width,
)

ROW = 24
LABELS = 330
MOST = 30
MOVERS = 15
STEP = 0.5
"""Octaves in a column of the distribution."""


def comparison_plot(comparison: Comparison) -> Picture:
    """Types, distribution of the ratios, and the layers that changed most."""
    kinds = sorted(comparison.kinds, key=lambda kind: -distance(kind.ratio))
    rows = [(_label(kind), kind.first, kind.second, kind.ratio) for kind in kinds[:MOST]]
    movers = [(layer.name, layer.first, layer.second, layer.ratio) for layer in comparison.movers()[:MOVERS]]
    title = f"{comparison.second} against {comparison.first}"
    note = f"median {times(comparison.ratio)}, {len(comparison.layers)} layers in both"
    return stacked(
        [
            _pairs(f"{title}: median amax by layer type", note, rows, comparison),
            _ratios(comparison),
            _pairs("The layers that changed most", f"{len(movers)} of {len(comparison.layers)}", movers, comparison),
        ]
    )


def _pairs(title: str, note: str, rows: Sequence[tuple[str, float, float, float]], comparison: Comparison) -> Picture:
    """A row for each (label, first, second, ratio): both on a logarithmic axis, joined, with the ratio beside."""
    top = MARGIN + 88
    bottom = top + ROW * len(rows)
    image, draw = blank(title, bottom + 56, note=note)
    legend(draw, [(comparison.first, BLUE), (comparison.second, ORANGE)], MARGIN, MARGIN + 52)
    left = MARGIN + min(LABELS, max((text_width(label) for label, *_ in rows), default=0)) + 16
    axis = LogAxis.over([value for row in rows for value in row[1:3]], left, WIDTH - MARGIN - 90)
    draw.text((WIDTH - MARGIN, top - 20), "ratio", MUTED, font(SMALL), anchor="ra")
    axis.draw(draw, top, bottom, "largest magnitude of the layer's input (amax), logarithmic")
    for row, (label, first, second, ratio) in enumerate(rows):
        y = top + row * ROW + ROW // 2
        draw.text((left - 10, y), shortened(label, LABELS), INK, font(NORMAL), anchor="rm")
        draw.line((axis.x(first), y, axis.x(second), y), MUTED, 2)
        _dot(draw, axis.x(first), y, BLUE)
        _dot(draw, axis.x(second), y, ORANGE)
        draw.text((WIDTH - MARGIN, y), factor(ratio), INK, font(NORMAL), anchor="rm")
    return image


def _ratios(comparison: Comparison) -> Picture:
    """How many layers have which ratio, in columns of half an octave."""
    ratios = [layer.ratio for layer in comparison.layers if 0 < layer.ratio < math.inf]
    steps = [round(math.log2(ratio) / STEP) for ratio in ratios]
    first, last = min([*steps, -2]) - 1, max([*steps, 2]) + 1
    counts = [steps.count(step) for step in range(first, last + 1)]
    image, draw = blank("How many layers changed by how much", 350, note="dashed: unchanged; line: median")
    left, right, top, bottom = 76, WIDTH - MARGIN - 10, MARGIN + 84, 350 - 52
    axis = LogAxis(2 ** ((first - 0.5) * STEP), 2 ** ((last + 0.5) * STEP), left, right)
    most = max(1, *counts)
    count_axis(draw, most, (left, top, right, bottom), "layers")
    axis.draw(draw, top, bottom, f"amax in {comparison.second} over amax in {comparison.first}, logarithmic")
    for step, count in enumerate(counts, first):
        box = [axis.x(2 ** ((step + side) * STEP)) for side in (-0.5, 0.5)]
        if count:
            draw.rectangle(
                (box[0] + 1, min(bottom - count / most * (bottom - top), bottom - 2), box[1] - 1, bottom), LIGHT_BLUE
            )
    for y in range(int(top), int(bottom), 9):
        draw.line((axis.x(1), y, axis.x(1), y + 5), INK)
    if 0 < comparison.ratio < math.inf:
        draw.line((axis.x(comparison.ratio), top - 4, axis.x(comparison.ratio), bottom), RED, 2)
        draw.text((axis.x(comparison.ratio), top - 8), factor(comparison.ratio), RED, font(NORMAL), anchor="md")
    return image


def _label(kind: KindChange) -> str:
    return kind.kind if kind.layers == 1 else f"{kind.kind}  ({kind.layers})"


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: Colour) -> None:
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), colour, "white")
