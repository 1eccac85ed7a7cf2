"""What all pictures share: paper, type, colours, a logarithmic axis. Pillow only: ComfyUI has no matplotlib."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

Picture: TypeAlias = Image.Image
"""What every plot returns: RGB, dark on white."""
Colour: TypeAlias = tuple[int, int, int]

WIDTH = 1100
MARGIN = 16
SMALL, NORMAL, LARGE = 12, 13, 18
INK, MUTED, GRID, FAINT = (25, 28, 33), (88, 95, 105), (224, 227, 232), (240, 242, 245)
# Okabe and Ito's palette, told apart with every kind of colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (170, 85, 140)
LIGHT_BLUE = (158, 202, 225)


def blank(title: str, height: int, width: int = WIDTH, note: str = "") -> tuple[Picture, ImageDraw.ImageDraw]:
    """White paper with a title, and a smaller line below it when there is a note."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), shortened(title, width - 2 * MARGIN, LARGE), INK, font(LARGE))
    if note:
        draw.text((MARGIN, MARGIN + 27), shortened(note, width - 2 * MARGIN), MUTED, font(NORMAL))
    return image, draw


def stacked(parts: Sequence[Picture], gap: int = 14) -> Picture:
    """Pictures below each other on one page as wide as the widest."""
    height = sum(part.height for part in parts) + gap * (len(parts) - 1)
    page = Image.new("RGB", (max(part.width for part in parts), height), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height + gap
    return page


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, the only one that is there on every machine."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int = NORMAL) -> int:
    """In pixels."""
    return math.ceil(font(size).getlength(text))


def shortened(text: str, width: float, size: int = NORMAL) -> str:
    """The text, with its middle left out when it is wider: a layer's name is told by both ends."""
    if text_width(text, size) <= width:
        return text
    too_many = bisect_right(range(len(text)), width, lo=3, key=lambda kept: text_width(_halves(text, kept), size))
    return _halves(text, too_many - 1)


def _halves(text: str, kept: int) -> str:
    return f"{text[: kept // 2]}...{text[len(text) - (kept - kept // 2) :]}"


def legend(draw: ImageDraw.ImageDraw, entries: Sequence[tuple[str, Colour]], left: float, top: float) -> None:
    """Coloured squares with names, side by side."""
    for name, colour in entries:
        draw.rectangle((left, top + 3, left + 11, top + 14), colour)
        draw.text((left + 17, top), name, MUTED, font(NORMAL))
        left += 40 + text_width(name)


def count_axis(draw: ImageDraw.ImageDraw, most: int, box: tuple[float, float, float, float], label: str) -> None:
    """A linear vertical axis from 0 to `most` along the box (left, top, right, bottom), its label above."""
    left, top, right, bottom = box
    for count in range(0, most + 1, max(1, round(most / 4))):
        y = bottom - count / most * (bottom - top)
        draw.line((left, y, right, y), GRID)
        draw.text((left - 8, y), str(count), MUTED, font(SMALL), anchor="rm")
    draw.text((MARGIN, top - 22), label, INK, font(NORMAL), anchor="lm")


def diamond(draw: ImageDraw.ImageDraw, x: float, y: float, colour: Colour, radius: int = 5) -> None:
    """A filled diamond about a point."""
    draw.polygon([(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)], colour, "white")


def dashed(draw: ImageDraw.ImageDraw, x: float, top: float, bottom: float, colour: Colour) -> None:
    """A vertical dashed line."""
    y = top
    while y < bottom:
        draw.line((x, y, x, min(y + 5, bottom)), colour, 1)
        y += 9


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic horizontal axis: positive values low to high over the pixels left to right."""

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def over(cls, values: Sequence[float], left: float, right: float) -> LogAxis:
        """Wide enough for all positive values with a little room on both sides, and a decade at least."""
        positive = [value for value in values if 0 < value < math.inf] or [1.0]
        low, high = min(positive), max(positive)
        room = max(math.sqrt(10 * low / high), (high / low) ** 0.03)
        return cls(low / room, high * room, left, right)

    def x(self, value: float) -> float:
        """Pixel of a value; values outside fall on the nearer end."""
        inside = min(max(value, self.low), self.high)
        return self.left + math.log(inside / self.low) / math.log(self.high / self.low) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Round values, at least 60 pixels apart: decades, with 2 and 5 between them where there is room."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        per_decade = (self.right - self.left) / math.log10(self.high / self.low)
        steps = (1.0, 2.0, 5.0) if per_decade > 200 else (1.0,)
        every = max(1, math.ceil(60 / per_decade))
        values = [step * 10.0**decade for decade in decades if decade % every == 0 for step in steps]
        return [value for value in values if self.low <= value <= self.high]

    def draw(self, draw: ImageDraw.ImageDraw, top: float, bottom: float, label: str) -> None:
        """Grid lines from top to bottom, their values and the axis's label below (40 pixels)."""
        for value in self.ticks():
            draw.line((self.x(value), top, self.x(value), bottom), GRID)
            draw.text((self.x(value), bottom + 5), plain(value), MUTED, font(SMALL), anchor="ma")
        draw.line((self.left, bottom, self.right, bottom), MUTED)
        draw.text(((self.left + self.right) / 2, bottom + 22), label, INK, font(NORMAL), anchor="ma")


def plain(value: float) -> str:
    """A number as an axis shows it: "0.001", "20000", "1e6"."""
    return f"{value:g}".replace("e+0", "e").replace("e-0", "e-")


def blend(stops: Sequence[Colour]) -> Callable[[float], Colour]:
    """A scale of colours from 0 to 1 through evenly spaced stops."""

    def colour(value: float) -> Colour:
        place = min(max(value, 0.0), 1.0) * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        part = place - index
        red, green, blue = (round(a + (b - a) * part) for a, b in zip(stops[index], stops[index + 1], strict=True))
        return red, green, blue

    return colour
