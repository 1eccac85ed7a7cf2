"""Distributions of magnitudes with the ranges that the policies would store."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ...calibration import DEFAULT_POLICY, Calibration, lower_edges, percentile, upper_edges
from ...calibration.page import decibels, number, share
from ...calibration.report import CalibrationReport, LayerReport
from .canvas import (
    BLUE,
    GREEN,
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
    LogAxis,
    Picture,
    blank,
    font,
    legend,
    plain,
    shortened,
    stacked,
)

POLICY_COLOURS: dict[str, Colour] = {
    "p99.9": RED,
    "max": GREEN,
    "elements-p99.99": ORANGE,
    "elements-p99.9": PURPLE,
    "dynamic": MUTED,
}
PANELS = 8
"""Layers shown: the outliers, then the largest of each type."""
PANEL_HEIGHT = 420
LOWEST = 1.0
"""Percentile of the elements at which a panel begins: the few below reach down for decades."""


def layer_histograms(calibration: Calibration, report: CalibrationReport) -> Picture | None:
    """A panel for each of some layers: elements, amax of blocks, the policies' ranges and what they clip.

    None when no layer has a histogram of elements.
    """
    shown = [layer for layer in _chosen(report) if int(calibration.layers[layer.name].element_magnitude.sum())]
    if not shown:
        return None
    note = (
        "Outliers first, then the largest of each type. Clipped is what lies right of a policy's line. SQNR: predicted."
    )
    image, draw = blank("Input magnitudes and what each policy would clip", MARGIN + 84, note=note)
    legend(draw, [("elements", LIGHT_BLUE), ("amax of blocks of 16 channels", BLUE)], MARGIN, MARGIN + 54)
    panels = [_panel(calibration, layer) for layer in shown]
    rows = []
    for first in range(0, len(panels), 2):
        row = Image.new("RGB", (WIDTH, PANEL_HEIGHT), "white")
        for column, panel in enumerate(panels[first : first + 2]):
            row.paste(panel, (column * WIDTH // 2, 0))
        rows.append(row)
    return stacked([image, *rows], 0)


def layer_histogram(calibration: Calibration, report: CalibrationReport, name: str) -> Picture | None:
    """The panel of one layer, None when it has no histogram of elements (imported, or never seen)."""
    layer = next((layer for layer in report.layers if layer.name == name), None)
    if layer is None or not int(calibration.layers[name].element_magnitude.sum()):
        return None
    return _panel(calibration, layer)


def _chosen(report: CalibrationReport) -> list[LayerReport]:
    by_name = {layer.name: layer for layer in report.layers}
    largest = [by_name[kind.largest_in] for kind in sorted(report.kinds, key=lambda kind: -kind.largest)]
    names = dict.fromkeys(layer.name for layer in [*report.outliers()[: PANELS // 2], *largest])
    return [by_name[name] for name in list(names)[:PANELS]]


def _panel(calibration: Calibration, layer: LayerReport) -> Picture:
    stats = calibration.layers[layer.name]
    width = WIDTH // 2
    image = Image.new("RGB", (width, PANEL_HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, 8), shortened(layer.name, width - 2 * MARGIN, 15), INK, font(15))
    draw.text(
        (MARGIN, 29),
        f"amax {number(layer.amax)}, {number(layer.ratio, 3)} times its type's median; "
        f"input_scale {number(layer.chosen.input_scale)}",
        MUTED,
        font(SMALL),
    )
    if not int(stats.element_magnitude[1:].sum()):  # a logarithmic axis has no place for them
        draw.text((MARGIN, 70), "nothing but zeros was seen", MUTED, font(NORMAL))
        return image
    effects = {name: effect for name, effect in layer.policies.items() if effect is not None}
    ranges = [effect.amax for effect in effects.values() if effect.amax is not None]
    edges, uppers = lower_edges().tolist(), upper_edges().tolist()
    elements, blocks = stats.element_magnitude.tolist(), stats.block_amax.tolist()
    low = percentile(stats.element_magnitude, LOWEST, ignore_zero=True)
    axis = LogAxis.over([low, layer.amax, *ranges], 62, width - MARGIN - 4)
    top, bottom = 70, PANEL_HEIGHT - 176
    _grid(draw, axis, top, bottom, max(elements[1:]))
    _columns(draw, axis, elements, edges, uppers, top, bottom, LIGHT_BLUE)
    _outline(draw, axis, blocks, edges, uppers, top, bottom, max(elements[1:]))
    lines = [(axis.x(effect.amax), POLICY_COLOURS[name]) for name, effect in effects.items() if effect.amax]
    for place, (x, colour) in enumerate(lines):
        # Lines that fall together stay visible as borders of the last one.
        together = sum(abs(x - other) < 3 for other, _ in lines[place + 1 :])
        draw.line((x, top - 4, x, bottom), colour, 2 + 4 * together)
    columns = ((MARGIN, "policy"), (168, "range"), (252, "clips"), (340, "blocks lost"), (440, "SQNR"))
    y = bottom + 46
    for x, text in columns:
        draw.text((x, y), text, MUTED, font(SMALL))
    for name, effect in effects.items():
        y += 17
        draw.rectangle((MARGIN, y + 2, MARGIN + 10, y + 12), POLICY_COLOURS[name])
        default = " (default)" if name == DEFAULT_POLICY else ""
        cells = (number(effect.amax), share(effect.clip_rate), share(effect.lost_rate), decibels(effect.sqnr_db))
        draw.text((MARGIN + 17, y), name + default, INK, font(SMALL))
        for (x, _), text in zip(columns[1:], cells, strict=True):
            draw.text((x, y), text, INK, font(SMALL))
    return image


def _grid(draw: ImageDraw.ImageDraw, axis: LogAxis, top: float, bottom: float, most: int) -> None:
    axis.draw(draw, top, bottom, "magnitude, logarithmic")
    for power in range(0, max(1, math.ceil(math.log10(most + 1)))):
        y = bottom - _height(10**power, most) * (bottom - top)
        if y >= top and power % (2 if most > 10**4 else 1) == 0:
            draw.text((axis.left - 8, y), plain(10**power), MUTED, font(SMALL), anchor="rm")
    draw.text((axis.left - 8, top - 6), "count", MUTED, font(SMALL), anchor="rd")


def _height(count: int, most: int) -> float:
    return math.log1p(count) / math.log1p(most)


def _columns(
    draw: ImageDraw.ImageDraw,
    axis: LogAxis,
    counts: Sequence[int],
    lowers: Sequence[float],
    uppers: Sequence[float],
    top: float,
    bottom: float,
    colour: Colour,
) -> None:
    most = max(counts[1:])
    for index in range(1, len(counts)):
        if counts[index] and uppers[index] > axis.low:
            y = bottom - _height(counts[index], most) * (bottom - top)
            left, right = axis.x(lowers[index]), axis.x(uppers[index])
            draw.rectangle((left, y, max(left, right - 1), bottom - 1), colour)


def _outline(
    draw: ImageDraw.ImageDraw,
    axis: LogAxis,
    counts: Sequence[int],
    lowers: Sequence[float],
    uppers: Sequence[float],
    top: float,
    bottom: float,
    most: int,
) -> None:
    points: list[tuple[float, float]] = []
    for index in range(1, len(counts)):
        if uppers[index] > axis.low and lowers[index] < axis.high:
            y = bottom - _height(counts[index], most) * (bottom - top)
            points += [(axis.x(lowers[index]), y), (axis.x(uppers[index]), y)]
    draw.line(points, BLUE, 2)
