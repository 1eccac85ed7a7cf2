"""The contact sheet: source above, converted below, same seeds, and what differs."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ENLARGE = 3
GAP = 6
HEADING = 34
CAPTION = 18
MARGIN = 150
GAIN = 10
PAPER = (250, 250, 248)
INK = (30, 32, 36)
GREY = (110, 114, 120)


def psnr(reference: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures with values 0..1: ``-10 * log10(mean((a - b)**2))``.

    Infinite for equal pictures.
    """
    error = (reference.double() - other.double()).square().mean().item()
    return math.inf if error == 0 else -10.0 * math.log10(error)


def contact_sheet(title: str, labels: list[int], seeds: list[int], source: Tensor, converted: Tensor) -> Image.Image:
    """Pictures [B, H, W] of both models, ink 0..1, in rows of ten, with PSNR under each pair.

    Pixels are enlarged without smoothing. The third row is ``GAIN`` times the absolute difference: white
    means equal. Differences of these models are too small to be seen without the gain.
    """
    size = source.shape[-1] * ENLARGE
    columns = min(10, len(labels))
    groups = [range(first, min(first + columns, len(labels))) for first in range(0, len(labels), columns)]
    group_height = CAPTION + 3 * (size + GAP) + CAPTION + 2 * GAP
    width = MARGIN + columns * (size + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADING + len(groups) * group_height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * GAP, GAP), title, INK, _font(17))
    difference = (GAIN * (source - converted).abs()).clamp(0.0, 1.0)
    rows = (("source", "FP8", source), ("converted", "NVFP4 / FP8", converted), ("difference", f"x {GAIN}", difference))
    for number, group in enumerate(groups):
        top = HEADING + number * group_height
        for row, (name, detail, _) in enumerate(rows):
            middle = top + CAPTION + row * (size + GAP) + size // 2
            draw.text((2 * GAP, middle - 18), name, INK, _font(16))
            draw.text((2 * GAP, middle + 2), detail, GREY, _font(13))
        for column, index in enumerate(group):
            left = MARGIN + column * (size + GAP)
            draw.text((left, top), f"{labels[index]}, seed {seeds[index]}", GREY, _font(12))
            for row, (_, _, pictures) in enumerate(rows):
                sheet.paste(_picture(pictures[index]), (left, top + CAPTION + row * (size + GAP)))
            under = top + CAPTION + 3 * (size + GAP)
            draw.text((left, under), f"{psnr(source[index], converted[index]):.1f} dB", GREY, _font(12))
    return sheet


def _picture(ink: Tensor) -> Image.Image:
    """Ink [H, W] on white paper, enlarged."""
    levels = (255.0 * (1.0 - ink.float())).round().clamp(0.0, 255.0).to(torch.uint8)
    height, width = levels.shape
    return Image.fromarray(levels.cpu().numpy()).resize((width * ENLARGE, height * ENLARGE), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
