"""A table as coloured cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import ImageDraw

from .canvas import FAINT, INK, MARGIN, MUTED, NORMAL, SMALL, WIDTH, Colour, Picture, blank, font, shortened, text_width

ROW = 20
LABELS = 330
KEY = 320
Value = TypeVar("Value")


@dataclass(frozen=True)
class Key:
    """What the colours mean. place: value -> 0..1. colour: 0..1 -> colour. marks: (0..1, text). nothing: no value."""

    label: str
    place: Callable[[float], float]
    colour: Callable[[float], Colour]
    marks: tuple[tuple[float, str], ...]
    nothing: str = "nothing seen"


def heat_map(
    title: str,
    note: str,
    rows: Sequence[tuple[str, Sequence[float | None]]],
    columns: Sequence[str],
    axis: str,
    key: Key,
) -> Picture:
    """Cells of rows (label, values; None = nothing there) under a colour key; `axis` names the columns."""
    top = MARGIN + 98
    image, draw = blank(title, top + ROW * len(rows) + 58, note=note)
    _key(draw, key)
    label_width = max((text_width(column, SMALL) + 12 for column in columns), default=1)
    draw_cells(draw, top, rows, columns, axis, lambda value: key.colour(key.place(value)), label_width)
    return image


def draw_cells(
    draw: ImageDraw.ImageDraw,
    top: int,
    rows: Sequence[tuple[str, Sequence[Value | None]]],
    columns: Sequence[str],
    axis: str,
    colour: Callable[[Value], Colour],
    label_width: int,
) -> None:
    """The table itself from ``top`` on; below it every so many columns' names that each has ``label_width`` pixels."""
    left = MARGIN + min(LABELS, max((text_width(label) for label, _ in rows), default=0)) + 10
    wide = (WIDTH - MARGIN - left) / max(1, len(columns))
    for row, (label, values) in enumerate(rows):
        y = top + row * ROW
        draw.text((left - 8, y + 3), shortened(label, LABELS), INK, font(NORMAL), anchor="ra")
        for column, value in enumerate(values):
            start = left + column * wide
            box = (start, y, max(start, start + wide - 1), y + ROW - 2)
            draw.rectangle(box, FAINT if value is None else colour(value))
    bottom = top + ROW * len(rows)
    every = max(1, -(-label_width // int(max(wide, 1))))
    for column in range(0, len(columns), every):
        draw.text((left + (column + 0.5) * wide, bottom + 4), columns[column], MUTED, font(SMALL), anchor="ma")
    draw.text(((left + WIDTH - MARGIN) / 2, bottom + 24), axis, INK, font(NORMAL), anchor="ma")


def _key(draw: ImageDraw.ImageDraw, key: Key) -> None:
    top = MARGIN + 54
    draw.text((MARGIN, top), key.label, MUTED, font(NORMAL))
    left = MARGIN + text_width(key.label) + 24
    for pixel in range(KEY):
        draw.line((left + pixel, top, left + pixel, top + 14), key.colour(pixel / (KEY - 1)))
    for place, text in key.marks:
        draw.text((left + place * KEY, top + 17), text, MUTED, font(SMALL), anchor="ma")
    nothing = left + KEY + 50
    draw.rectangle((nothing, top, nothing + 14, top + 14), FAINT, MUTED)
    draw.text((nothing + 21, top), key.nothing, MUTED, font(NORMAL))
