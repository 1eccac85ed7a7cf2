"""Plots drawn with Pillow, which ComfyUI brings along; it has no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from ..calibration import Calibration, lower_edges

Picture: TypeAlias = Image.Image
"""What every function here returns: RGB, dark on white."""

WIDTH = 1100
ROW = 18
MARGIN = 14
MAX_ROWS = 60
"""Longer lists are thinned to their smallest and largest entries: a plot of 600 rows cannot be read."""
INK, MUTED, GRID = (25, 28, 33), (105, 112, 122), (224, 227, 232)
COLOURS = {
    "nvfp4": (118, 185, 0),
    "float8_e4m3fn": (64, 120, 192),
    "float8_e5m2": (120, 90, 180),
    "before": (160, 166, 176),
    "after": (118, 185, 0),
    "": (64, 120, 192),
}
OTHER = (150, 156, 166)


def bar_chart(title: str, items: Sequence[tuple[str, float, str]], unit: str, *, logarithmic: bool = False) -> Picture:
    """Horizontal bars, one a row, from (label, positive value, format).

    The format chooses the colour and is explained in a legend; "" is the neutral colour without one.
    """
    shown, note = _thinned(items)
    label_width = max((_text_width(label, 12) for label, _, _ in shown), default=0) + 20
    legend = sorted({kind for _, _, kind in shown} - {""})
    image, draw = _canvas(title, len(shown) + 1 + bool(note))
    top = MARGIN + 34
    _legend(draw, legend, top - 2)
    top += ROW
    values = [value for _, value, _ in shown]
    scale = _scale(values, logarithmic)
    span = WIDTH - label_width - 110
    for row, (label, value, kind) in enumerate(shown):
        y = top + row * ROW
        draw.text((label_width - 8, y + 1), label, INK, _font(12), anchor="ra")
        draw.rectangle((label_width, y + 2, label_width + span * scale(value), y + ROW - 4), COLOURS.get(kind, OTHER))
        draw.text((label_width + span * scale(value) + 6, y + 1), f"{value:.4g} {unit}", MUTED, _font(12))
    if note:
        draw.text((label_width, top + len(shown) * ROW + 2), note, MUTED, _font(12))
    return image


def paired_bars(title: str, items: Sequence[tuple[str, float, float]], unit: str) -> Picture:
    """Two bars a row, before and after, from (label, before, after)."""
    label_width = max((_text_width(label, 12) for label, _, _ in items), default=0) + 20
    image, draw = _canvas(title, 2 * len(items) + 1)
    top = MARGIN + 34
    _legend(draw, ["before", "after"], top - 2)
    top += ROW
    most = max((max(before, after) for _, before, after in items), default=0) or 1.0
    span = WIDTH - label_width - 110
    for row, (label, *pair) in enumerate(items):
        draw.text((label_width - 8, top + row * 2 * ROW + ROW // 2), label, INK, _font(12), anchor="ra")
        for half, (value, name) in enumerate(zip(pair, ("before", "after"), strict=True)):
            y = top + (2 * row + half) * ROW
            draw.rectangle((label_width, y + 2, label_width + span * value / most, y + ROW - 4), COLOURS[name])
            draw.text((label_width + span * value / most + 6, y + 1), f"{value:.4g} {unit}", MUTED, _font(12))
    return image


def histogram_plot(
    title: str, counts: Sequence[int], edges: Sequence[float], marks: Sequence[tuple[str, float]] = ()
) -> Picture:
    """Columns over a logarithmic axis; the height is the logarithm of the count, so that tails are seen.

    Args:
        counts: values in each bin.
        edges: lower edge of each bin, ascending; bin 0 (zero) is left out of the picture.
        marks: labelled vertical lines, for example the clip point.
    """
    image, draw = _canvas(title, 14)
    used = [index for index in range(1, len(counts)) if counts[index]]
    if not used:
        draw.text((MARGIN, 60), "nothing recorded", MUTED, _font(13))
        return image
    first, last = used[0], used[-1]
    low, high = math.log2(edges[first]), math.log2(max([edges[last] * 2, *(mark for _, mark in marks if mark > 0)]))
    left, right, top, bottom = 50, WIDTH - 30, MARGIN + 50, image.height - 40
    peak = math.log1p(max(counts[index] for index in used))

    def x(value: float) -> float:
        return left + (math.log2(value) - low) / max(high - low, 1e-9) * (right - left)

    for octave in range(math.ceil(low), math.floor(high) + 1, max(1, int(high - low) // 12)):
        draw.line((x(2.0**octave), top, x(2.0**octave), bottom), GRID)
        draw.text((x(2.0**octave), bottom + 6), f"{2.0**octave:.3g}", MUTED, _font(12), anchor="ma")
    for index in used:
        height = math.log1p(counts[index]) / peak * (bottom - top)
        upper = edges[index + 1] if index + 1 < len(edges) else edges[index] * 1.125
        draw.rectangle((x(edges[index]), bottom - height, x(upper) - 1, bottom), COLOURS[""])
    for number, (label, value) in enumerate(marks):
        draw.line((x(value), top - 6, x(value), bottom), (200, 60, 40), 2)
        draw.text((min(x(value) + 4, right - 120), top - 18 + 14 * number), label, (200, 60, 40), _font(12))
    draw.line((left, bottom, right, bottom), INK)
    return image


def calibration_plot(calibration: Calibration) -> Picture:
    """What a calibration holds: largest activation of each layer, the noise schedule, all block amax."""
    ranges = [(name, layer.amax, "") for name, layer in calibration.layers.items() if layer.amax > 0]
    parts = [bar_chart(f"Largest activation by layer: {calibration.summary()}", ranges, "", logarithmic=True)]
    schedule = calibration.schedule.sum(0).tolist()
    rows = [
        (f"noise {index / len(schedule):.2f} to {(index + 1) / len(schedule):.2f}", float(count), "")
        for index, count in reversed(list(enumerate(schedule)))
    ]
    parts.append(bar_chart("Model evaluations by part of the noise schedule", rows, ""))
    blocks = sum((layer.block_amax for layer in calibration.layers.values()), start=lower_edges().long() * 0)
    parts.append(
        histogram_plot(
            "Largest activation in each block of 16 channels, all layers", blocks.tolist(), lower_edges().tolist()
        )
    )
    image = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        image.paste(part, (0, top))
        top += part.height
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


def _canvas(title: str, rows: int) -> tuple[Picture, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + 40 + rows * ROW), "white")
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, INK, _font(17))
    return image, draw


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str], top: float) -> None:
    left = float(MARGIN)
    for name in names:
        draw.rectangle((left, top + 2, left + 11, top + 13), COLOURS.get(name, OTHER))
        draw.text((left + 16, top), name, MUTED, _font(12))
        left += 30 + _text_width(name, 12)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return math.ceil(_font(size).getlength(text))
