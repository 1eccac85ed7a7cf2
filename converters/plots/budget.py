"""What budgets buy: predicted quality over size and over speed, recipes as points beside the best choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PIL import ImageDraw

from ..budget.curve import Curves
from ..budget.selection import Totals
from .canvas import (
    BLUE,
    GRID,
    INK,
    MARGIN,
    MUTED,
    NORMAL,
    ORANGE,
    RED,
    SMALL,
    WIDTH,
    Picture,
    blank,
    diamond,
    font,
    legend,
)
from .canvas import text_width as width_of

HEIGHT = 480
LEFT, RIGHT_GAP, TOP, BOTTOM = 64, 26, 130, 58
ROOM_ABOVE = 8.0
"""dB shown above the best named point: the curve itself ends at no error at all."""
TICKS = 6
MARKED = 40
"""Best choices that are marked one by one; more make a line of themselves."""

Box = tuple[float, float, float, float]


def budget_plot(title: str, note: str, curves: Curves) -> Picture:
    """Two panels, predicted quality in dB upward: over size in MB (left is better), over speed (right is better).

    Args:
        note: one line below the title: how it was measured.
        curves: the best choices, the chosen one and the recipes.
    """
    image, draw = blank(title, HEIGHT, note=note)
    legend(draw, [("best choices", BLUE), ("this budget", RED), ("recipes", ORANGE)], MARGIN, MARGIN + 52)
    middle = WIDTH // 2
    heights = _heights(curves)
    _panel(
        draw,
        (LEFT, TOP, middle - RIGHT_GAP, HEIGHT - BOTTOM),
        curves,
        curves.by_size,
        lambda totals: totals.bytes / 1e6,
        heights,
        "size of layers and rest, MB",
    )
    _panel(
        draw,
        (middle + LEFT, TOP, WIDTH - RIGHT_GAP, HEIGHT - BOTTOM),
        curves,
        curves.by_speed,
        lambda totals: totals.speed,
        heights,
        "predicted speed, times FP8",
        names_left=True,
    )
    return image


def _heights(curves: Curves) -> tuple[float, float]:
    """The range of dB that is drawn."""
    drawn = [totals.error_db for totals in (*curves.by_size, *curves.by_speed) if math.isfinite(totals.error_db)]
    named = [totals.error_db for totals in _named(curves) if math.isfinite(totals.error_db)]
    low = math.floor(min([*drawn, *named], default=0.0) - 1)
    high = math.ceil(max(named, default=max(drawn, default=1.0)) + ROOM_ABOVE)
    return low, max(low + 1, high)


def _named(curves: Curves) -> list[Totals]:
    return [curves.chosen, *(point.totals for point in curves.recipes)]


def _panel(
    draw: ImageDraw.ImageDraw,
    box: Box,
    curves: Curves,
    best: Sequence[Totals],
    across: Callable[[Totals], float],
    heights: tuple[float, float],
    label: str,
    *,
    names_left: bool = False,
) -> None:
    left, top, right, bottom = box
    inside = [totals for totals in best if totals.error_db <= heights[1]]
    values = [across(totals) for totals in (*inside, *_named(curves))]
    margin = 0.04 * (max(values) - min(values)) or 0.04 * max(values) or 1.0
    low, high = min(values) - margin, max(values) + margin

    def place(totals: Totals) -> tuple[float, float]:
        quality = min(max(totals.error_db, heights[0]), heights[1])
        x = left + (across(totals) - low) / (high - low) * (right - left)
        return x, bottom - (quality - heights[0]) / (heights[1] - heights[0]) * (bottom - top)

    _axes(draw, box, (low, high), heights, label)
    if len(inside) > 1:
        draw.line([place(totals) for totals in inside], BLUE, 2)
    for totals in inside if len(inside) <= MARKED else ():
        x, y = place(totals)
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), BLUE)
    for point in curves.recipes:
        x, y = place(point.totals)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), ORANGE, "white")
        # Recipes lie on the far side of the curve: names go where it is not, unless there is no room.
        room = x - left if names_left else right - x
        to_left = names_left == (room > width_of(point.name, SMALL) + 10)
        draw.text((x - 9 if to_left else x + 9, y + 4), point.name, INK, font(SMALL), anchor="rm" if to_left else "lm")
    diamond(draw, *place(curves.chosen), RED, 7)


def _axes(
    draw: ImageDraw.ImageDraw, box: Box, across: tuple[float, float], heights: tuple[float, float], label: str
) -> None:
    left, top, right, bottom = box
    for value in round_values(*heights):
        y = bottom - (value - heights[0]) / (heights[1] - heights[0]) * (bottom - top)
        draw.line((left, y, right, y), GRID)
        draw.text((left - 8, y), f"{value:g}", MUTED, font(SMALL), anchor="rm")
    for value in round_values(*across):
        x = left + (value - across[0]) / (across[1] - across[0]) * (right - left)
        draw.line((x, top, x, bottom), GRID)
        draw.text((x, bottom + 5), f"{value:g}", MUTED, font(SMALL), anchor="ma")
    draw.line((left, bottom, right, bottom), MUTED)
    draw.text((left - 44, top - 22), "predicted quality, dB", INK, font(NORMAL), anchor="lm")
    draw.text(((left + right) / 2, bottom + 24), label, INK, font(NORMAL), anchor="ma")


def round_values(low: float, high: float) -> list[float]:
    """About ``TICKS`` values of one, two or five times a power of ten between two ends."""
    step = 10 ** math.floor(math.log10((high - low) / TICKS))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= TICKS)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
