"""Pictures of two models side by side with their difference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..pictures import Scores, absolute_difference
from .canvas import GRID, INK, MARGIN, MUTED, NORMAL, Picture, blank, font, shortened, stacked

GAP = 8
CAPTION = 24
SMALLEST, LARGEST, LARGEST_ALONE = 256, 448, 768
"""Pixels that a picture's longer side takes on the sheet; one picture alone is shown larger than several."""


def picture_sheet(
    title: str,
    note: str,
    names: tuple[str, str],
    first: Tensor,
    second: Tensor,
    scores: Sequence[Scores],
    shown: Sequence[int],
    gain: int,
) -> Picture:
    """Rows of first, second and `gain` times their absolute difference, with the scores above each.

    Args:
        first, second: uint8 [B, H, W, C], C 1, 3 or 4 (alpha is not drawn).
        scores: of all B pairs.
        shown: numbers of the pairs to draw, in this order.
    """
    side = LARGEST_ALONE if len(shown) == 1 else LARGEST
    size = _fitted(first.shape[2], first.shape[1], side)
    column = max(size[0], SMALLEST)
    width = 2 * MARGIN + 3 * column + 2 * GAP
    heading, draw = blank(title, MARGIN + 72, width, note)
    for place, name in enumerate((*names, f"difference x {gain}")):
        text = shortened(name, column - 4)
        draw.text((MARGIN + place * (column + GAP), MARGIN + 56), text, INK, font(NORMAL), anchor="lm")
    rows = [_row(number, first, second, scores[number], size, column, gain, alone=len(scores) == 1) for number in shown]
    return stacked([heading, *rows], gap=GAP)


def spread(count: int, most: int, always: int) -> list[int]:
    """At most `most` of `count` numbers, evenly spaced, with `always` (the worst pair) among them."""
    if count <= most:
        return list(range(count))
    even = [round(place * (count - 1) / (most - 1)) for place in range(most)]
    nearest = min(range(most), key=lambda place: abs(even[place] - always))
    even[nearest] = always
    return sorted(set(even))


def caption(scores: Scores) -> str:
    """One pair's scores in words."""
    if scores.equal:
        return "equal in every pixel"
    return f"PSNR {scores.psnr:.1f} dB, SSIM {scores.ssim:.4f}, HaarPSI {scores.haarpsi:.4f}"


def _row(
    number: int,
    first: Tensor,
    second: Tensor,
    scores: Scores,
    size: tuple[int, int],
    column: int,
    gain: int,
    *,
    alone: bool,
) -> Picture:
    row = Image.new("RGB", (2 * MARGIN + 3 * column + 2 * GAP, CAPTION + size[1]), "white")
    label = caption(scores) if alone else f"picture {number + 1}: {caption(scores)}"
    draw = ImageDraw.Draw(row)
    draw.text((MARGIN, CAPTION // 2), label, MUTED, font(NORMAL), anchor="lm")
    one, other = first[number : number + 1], second[number : number + 1]
    difference = (255 * absolute_difference(one, other, gain)).round().to(torch.uint8)
    for place, picture in enumerate((one, other, difference)):
        left = MARGIN + place * (column + GAP)
        row.paste(_image(picture[0]).resize(size, _filter(size, first)), (left, CAPTION))
        draw.rectangle((left, CAPTION, left + size[0] - 1, CAPTION + size[1] - 1), outline=GRID)
    return row


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Whole multiples for small pictures, so that their pixels stay what they are; large ones shrink to `side`."""
    longer = max(width, height)
    if longer <= SMALLEST:
        times = max(1, SMALLEST // longer)
        return width * times, height * times
    factor = min(1.0, side / longer)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _filter(size: tuple[int, int], pictures: Tensor) -> Image.Resampling:
    return Image.Resampling.NEAREST if size[0] >= pictures.shape[2] else Image.Resampling.LANCZOS


def _image(picture: Tensor) -> Picture:
    """uint8 [H, W, C] as RGB."""
    colours = picture[..., :3].expand(-1, -1, 3) if picture.shape[-1] == 1 else picture[..., :3]
    return Image.fromarray(colours.contiguous().cpu().numpy())
