"""Curves over steps or frames, on a linear or a logarithmic height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageDraw

from .canvas import BLUE, GRID, INK, MARGIN, MUTED, NORMAL, SMALL, WIDTH, Colour, Picture, blank, font, legend, plain

HEIGHT = 330
LEFT = 76
TICKS = 5


@dataclass(frozen=True)
class Curve:
    """Points (x, y) from left to right, drawn as one line; those whose y is not finite, or not positive on a
    logarithmic height, are left out."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: Colour = BLUE
    width: int = 2


@dataclass(frozen=True)
class Height:
    """The vertical axis."""

    label: str
    logarithmic: bool = False

    def drawn(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.logarithmic)

    def place(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def curve_chart(
    title: str,
    note: str,
    curves: Sequence[Curve],
    across: str,
    height: Height,
    *,
    width: int = WIDTH,
    named: bool = True,
) -> Picture:
    """Curves over a common axis of whole numbers labelled `across`; with a legend when they are `named`."""
    image, draw = blank(title, HEIGHT, width, note)
    top = MARGIN + (100 if named else 76)
    box = (LEFT, top, width - MARGIN - 10, HEIGHT - 52)
    if named:
        legend(draw, [(curve.name, curve.colour) for curve in curves if curve.name], MARGIN, MARGIN + 50)
    kept = [[point for point in curve.points if height.drawn(point[1])] for curve in curves]
    points = [point for part in kept for point in part]
    if not points:
        draw.text((box[0], (box[1] + box[3]) / 2), "nothing to draw: all are equal", MUTED, font(NORMAL), anchor="lm")
        return image
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = _range([height.place(y) for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        across_part = (x - first) / (last - first) if last > first else 0.5
        up_part = (height.place(y) - low) / (high - low)
        return box[0] + 12 + across_part * (box[2] - box[0] - 24), box[3] - up_part * (box[3] - box[1])

    _heights(draw, low, high, box, height)
    _numbers(draw, first, last, [at(x, points[0][1])[0] for x in (first, last)], box, across)
    for part, curve in zip(kept, curves, strict=True):
        places = [at(*point) for point in part]
        if len(places) > 1:
            draw.line(places, curve.colour, curve.width, joint="curve")
        if len(places) <= 60 and curve.width > 1:
            for x, y in places:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), curve.colour)
    return image


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the largest with a little room, also when all are the same."""
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.02 * max(abs(low), abs(high)), 1e-9)
    return low - room, high + room


def _heights(
    draw: ImageDraw.ImageDraw, low: float, high: float, box: tuple[float, float, float, float], height: Height
) -> None:
    left, top, right, bottom = box
    for value in _round_values(10**low, 10**high) if height.logarithmic else _even_values(low, high):
        y = bottom - (height.place(value) - low) / (high - low) * (bottom - top)
        draw.line((left, y, right, y), GRID)
        draw.text((left - 8, y), plain(round(value, 10)), MUTED, font(SMALL), anchor="rm")
    draw.line((left, bottom, right, bottom), MUTED)
    draw.text((MARGIN, top - 18), height.label, INK, font(NORMAL), anchor="lm")


def _numbers(
    draw: ImageDraw.ImageDraw,
    first: float,
    last: float,
    ends: Sequence[float],
    box: tuple[float, float, float, float],
    label: str,
) -> None:
    """Whole numbers below the axis."""
    every = max(1, math.ceil((last - first) / 20))
    for value in range(math.ceil(first), math.floor(last) + 1, every):
        part = (value - first) / (last - first) if last > first else 0.5
        draw.text((ends[0] + part * (ends[1] - ends[0]), box[3] + 5), str(value), MUTED, font(SMALL), anchor="ma")
    draw.text(((box[0] + box[2]) / 2, box[3] + 24), label, INK, font(NORMAL), anchor="ma")


def _even_values(low: float, high: float) -> list[float]:
    """About five values with a step of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / TICKS
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 in each decade, decades alone where there are many; even values within a small part of a decade."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 4 else (1,)
    found = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
    return found if len(found) > 2 else _even_values(low, high)
