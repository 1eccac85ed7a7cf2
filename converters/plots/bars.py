"""Horizontal bars: one value a row, or two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .canvas import BLUE, INK, MARGIN, MUTED, WIDTH, Picture, blank, font, legend, text_width

ROW = 18
MAX_ROWS = 60
"""Longer lists are thinned to their smallest and largest entries: a plot of 600 rows cannot be read."""
COLOURS = {
    "nvfp4": (118, 185, 0),
    "float8_e4m3fn": BLUE,
    "float8_e5m2": (120, 90, 180),
    "before": (160, 166, 176),
    "after": (118, 185, 0),
    "": BLUE,
}
OTHER = (150, 156, 166)


def bar_chart(title: str, items: Sequence[tuple[str, float, str]], unit: str, *, logarithmic: bool = False) -> Picture:
    """Horizontal bars, one a row, from (label, positive value, format).

    The format chooses the colour and is explained in a legend; "" is the neutral colour without one.
    """
    shown, note = _thinned(items)
    label_width = max((text_width(label, 12) for label, _, _ in shown), default=0) + 20
    kinds = sorted({kind for _, _, kind in shown} - {""})
    image, draw = blank(title, _height(len(shown) + 1 + bool(note)))
    top = MARGIN + 34
    legend(draw, [(kind, COLOURS.get(kind, OTHER)) for kind in kinds], MARGIN, top - 2)
    top += ROW
    values = [value for _, value, _ in shown]
    scale = _scale(values, logarithmic)
    span = WIDTH - label_width - 110
    for row, (label, value, kind) in enumerate(shown):
        y = top + row * ROW
        draw.text((label_width - 8, y + 1), label, INK, font(12), anchor="ra")
        draw.rectangle((label_width, y + 2, label_width + span * scale(value), y + ROW - 4), COLOURS.get(kind, OTHER))
        draw.text((label_width + span * scale(value) + 6, y + 1), f"{value:.4g} {unit}", MUTED, font(12))
    if note:
        draw.text((label_width, top + len(shown) * ROW + 2), note, MUTED, font(12))
    return image


def paired_bars(title: str, items: Sequence[tuple[str, float, float]], unit: str) -> Picture:
    """Two bars a row, before and after, from (label, before, after)."""
    label_width = max((text_width(label, 12) for label, _, _ in items), default=0) + 20
    image, draw = blank(title, _height(2 * len(items) + 1))
    top = MARGIN + 34
    legend(draw, [(name, COLOURS[name]) for name in ("before", "after")], MARGIN, top - 2)
    top += ROW
    most = max((max(before, after) for _, before, after in items), default=0) or 1.0
    span = WIDTH - label_width - 110
    for row, (label, *pair) in enumerate(items):
        draw.text((label_width - 8, top + row * 2 * ROW + ROW // 2), label, INK, font(12), anchor="ra")
        for half, (value, name) in enumerate(zip(pair, ("before", "after"), strict=True)):
            y = top + (2 * row + half) * ROW
            draw.rectangle((label_width, y + 2, label_width + span * value / most, y + ROW - 4), COLOURS[name])
            draw.text((label_width + span * value / most + 6, y + 1), f"{value:.4g} {unit}", MUTED, font(12))
    return image


def _thinned(items: Sequence[tuple[str, float, str]]) -> tuple[Sequence[tuple[str, float, str]], str]:
    if len(items) <= MAX_ROWS:
        return items, ""
    ranked = sorted(range(len(items)), key=lambda index: items[index][1])
    chosen = sorted(ranked[: MAX_ROWS // 2] + ranked[-(MAX_ROWS // 2) :])
    return [
        items[index] for index in chosen
    ], f"{MAX_ROWS // 2} smallest and {MAX_ROWS // 2} largest of {len(items)} layers"


def _scale(values: Sequence[float], logarithmic: bool) -> Callable[[float], float]:
    """Map a value to 0..1; a logarithmic scale starts one octave below the smallest value."""
    positive = [value for value in values if value > 0]
    most = max(positive, default=1.0)
    if not logarithmic:
        return lambda value: max(0.0, value) / most
    low = math.log2(min(positive, default=1.0)) - 1
    return lambda value: (math.log2(value) - low) / (math.log2(most) - low) if value > 0 else 0.0


def _height(rows: int) -> int:
    return 2 * MARGIN + 40 + rows * ROW
