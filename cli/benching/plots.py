"""The times of every generation, and the quality of every prompt, each as one dot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...converters.plots.canvas import (
    BLUE,
    GREEN,
    GRID,
    INK,
    LIGHT_BLUE,
    MARGIN,
    MUTED,
    NORMAL,
    ORANGE,
    PURPLE,
    RED,
    SMALL,
    WIDTH,
    Colour,
    Picture,
    blank,
    font,
    legend,
    plain,
    shortened,
    text_width,
)
from .schedule import WARM

if TYPE_CHECKING:
    from PIL import ImageDraw

COLOURS: tuple[Colour, ...] = (BLUE, ORANGE, GREEN, RED, PURPLE)
LANE = 64
LABELS = 300
DOT = 3
NARROWEST = 1e-9


def time_plot(result: Mapping[str, Any]) -> Picture:
    """A lane for each model: its warm times as dots in the order of the blocks, quartiles as a box, the median in it."""
    lanes = [(model, _warm(result, index)) for index, model in enumerate(result["models"])]
    bottom = MARGIN + 74 + LANE * len(lanes)
    note = result["server"]["hardware"]["device"] + "; box: quartiles, line: median, dots: generations"
    image, draw = blank("Time per image, warm", bottom + 56, note=note)
    left = MARGIN + 16 + min(LABELS, max(text_width(model["name"]) for model, _ in lanes))
    axis = _Axis([value for _, times in lanes for value in times], left, WIDTH - MARGIN - 20, zero=True)
    axis.draw(draw, MARGIN + 68, bottom, "seconds per image")
    for lane, (model, times) in enumerate(lanes):
        middle = MARGIN + 74 + LANE * lane + LANE // 2
        colour = COLOURS[lane % len(COLOURS)]
        draw.text((left - 12, middle), shortened(model["name"], LABELS), INK, font(NORMAL), anchor="rm")
        spread = model["seconds_per_image"]
        if spread is None:
            draw.text((left + 8, middle), "no warm time", MUTED, font(NORMAL), anchor="lm")
            continue
        draw.rectangle(
            (axis.at(spread["quarter"]), middle - 22, axis.at(spread["three_quarters"]), middle + 22), LIGHT_BLUE
        )
        for number, value in enumerate(times):
            # From top to bottom in time, so that a machine that became slower is seen.
            y = middle - 20 + 40 * (number + 0.5) / len(times)
            _dot(draw, axis.at(value), y, colour)
        draw.line((axis.at(spread["median"]), middle - 26, axis.at(spread["median"]), middle + 26), INK, 2)
    return image


def psnr_plot(result: Mapping[str, Any]) -> Picture | None:
    """PSNR against the reference for every prompt; None when no picture was compared."""
    series = [(index, _psnr(result, index)) for index in range(len(result["models"]))]
    series = [(index, values) for index, values in series if values]
    if not series:
        return None
    top, bottom = MARGIN + 96, MARGIN + 420
    note = f"against {result['request']['reference']}, same prompt and seed; line: mean"
    image, draw = blank("PSNR of every prompt (higher is closer)", bottom + 56, note=note)
    names = [(result["models"][index]["name"], COLOURS[index % len(COLOURS)]) for index, _ in series]
    legend(draw, names, MARGIN, MARGIN + 54)
    levels = _Axis([value for _, values in series for value in values.values()], bottom, top)
    left, right, count = MARGIN + 46, WIDTH - MARGIN - 12, len(result["pictures"])
    for value in levels.ticks(9):
        draw.line((left, levels.at(value), right, levels.at(value)), GRID)
        draw.text((left - 8, levels.at(value)), plain(value), MUTED, font(SMALL), anchor="rm")
    draw.text((MARGIN, top - 14), "dB", INK, font(NORMAL), anchor="lm")
    step = max(1, math.ceil(count / 20))
    for number in range(1, count + 1, step):
        x = left + (number - 0.5) / count * (right - left)
        draw.text((x, bottom + 6), str(number), MUTED, font(SMALL), anchor="ma")
    draw.line((left, bottom, right, bottom), MUTED)
    draw.text(((left + right) / 2, bottom + 24), "prompt", INK, font(NORMAL), anchor="ma")
    for index, values in series:
        colour = COLOURS[index % len(COLOURS)]
        mean = levels.at(statistics.fmean(values.values()))
        draw.line((left, mean, right, mean), colour, 2)
        for number, value in values.items():
            _dot(draw, left + (number - 0.5) / count * (right - left), levels.at(value), colour, 4)
    return image


class _Axis:
    """A linear axis over values, with room at both ends, from 0 when `zero`."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, zero: bool = False) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = max(0.06 * (high - low) or 0.05 * abs(high) or 1.0, NARROWEST)
        self._low, self._high = 0.0 if zero else low - room, high + room
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self, about: int) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        rough = (self._high - self._low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self._low / step)
        return [round(step * number, 10) for number in range(first, math.floor(self._high / step) + 1)]

    def draw(self, draw: ImageDraw.ImageDraw, top: float, bottom: float, label: str) -> None:
        for value in self.ticks(9):
            draw.line((self.at(value), top, self.at(value), bottom), GRID)
            draw.text((self.at(value), bottom + 5), plain(value), MUTED, font(SMALL), anchor="ma")
        draw.line((self._start, bottom, self._end, bottom), MUTED)
        draw.text(((self._start + self._end) / 2, bottom + 22), label, INK, font(NORMAL), anchor="ma")


def _warm(result: Mapping[str, Any], model: int) -> list[float]:
    entries = [entry for entry in result["generations"] if entry["model"] == model and entry.get("kind") == WARM]
    return [entry["seconds"] / max(1, len(entry["pictures"])) for entry in entries]


def _psnr(result: Mapping[str, Any], model: int) -> dict[int, float]:
    scored = [entry for entry in result["generations"] if entry["model"] == model and "scores" in entry]
    return {entry["picture"]: entry["scores"]["psnr_db"] for entry in scored if entry["scores"]["psnr_db"] is not None}


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, colour: Colour, radius: int = DOT) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "white")
