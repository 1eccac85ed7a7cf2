"""The contact sheet: some prompts, every model beside the reference, and where each one differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import PictureError
from ...converters.plots.canvas import INK, MARGIN, MUTED, NORMAL, SMALL, Picture, blank, font, shortened
from .quality import read_picture

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 8
SIDE = 220
GAP = 8
CAPTION = 20


def contact_sheet(result: Mapping[str, Any], folder: Path) -> Picture | None:
    """Rows are prompts: each model's worst one, then others evenly spread. None when nothing can be shown.

    The gain of the difference is that of the sheet, one round number for all, so that models can be compared.
    """
    from ...converters.pictures import absolute_difference, fitting_gain

    names = [model["name"] for model in result["models"]]
    reference = names.index(result["request"]["reference"])
    others = [index for index in range(len(names)) if index != reference]
    shown = {(entry["model"], entry["picture"]): entry for entry in result["generations"] if entry.get("pictures")}
    rows = []
    for number in _chosen(result, [picture for model, picture in shown if model == reference]):
        loaded = {
            model: _loaded(folder, shown[model, number]) for model in range(len(names)) if (model, number) in shown
        }
        pictures = {model: picture for model, picture in loaded.items() if picture is not None}
        if reference in pictures:
            rows.append((number, pictures))
    if not rows:
        return None
    same = [
        (pictures[reference], pictures[model])
        for _, pictures in rows
        for model in others
        if model in pictures and pictures[model].shape == pictures[reference].shape
    ]
    gain = min((fitting_gain(one, other) for one, other in same), default=1)
    columns = 1 + 2 * len(others)
    width = 2 * MARGIN + columns * (SIDE + GAP)
    heights = [_height(pictures[reference]) for _, pictures in rows]
    top = MARGIN + 88
    note = f"{result['server']['hardware']['device']}; difference: {gain} times the absolute one, black where equal"
    sheet, draw = blank(
        "Same prompts, same seeds", top + sum(height + 2 * CAPTION + GAP for height in heights), width, note
    )
    heads = [names[reference]] + [head for index in others for head in (names[index], f"difference x {gain}")]
    for column, head in enumerate(heads):
        draw.text((MARGIN + column * (SIDE + GAP), top - 22), shortened(head, SIDE), INK, font(NORMAL))
    for (number, pictures), height in zip(rows, heights, strict=True):
        text = result["pictures"][number - 1]["text"] or ""
        draw.text((MARGIN, top), shortened(f"{number}: {text}", width - 2 * MARGIN), MUTED, font(SMALL))
        expected = pictures[reference]
        sheet.paste(_thumbnail(expected, height), (MARGIN, top + CAPTION))
        for place, model in enumerate(others):
            left = MARGIN + (1 + 2 * place) * (SIDE + GAP)
            if model not in pictures:
                draw.text((left, top + CAPTION + height // 2), "no picture", MUTED, font(NORMAL))
                continue
            sheet.paste(_thumbnail(pictures[model], height), (left, top + CAPTION))
            if pictures[model].shape == expected.shape:
                change = (255 * absolute_difference(expected, pictures[model], gain)).round().byte()
                sheet.paste(_thumbnail(change, height), (left + SIDE + GAP, top + CAPTION))
            draw.text((left, top + CAPTION + height + 3), _caption(shown[model, number]), MUTED, font(SMALL))
        top += height + 2 * CAPTION + GAP
    return sheet


def _chosen(result: Mapping[str, Any], there: list[int]) -> list[int]:
    """Numbers of the pictures to show, ascending, of those that the reference has."""
    worst = [model["quality"]["psnr_db"]["worst_picture"] for model in result["models"] if _scored(model)]
    chosen = list(dict.fromkeys(number for number in worst if number in there))[: ROWS // 2]
    rest = [number for number in sorted(there) if number not in chosen]
    wanted = min(ROWS - len(chosen), len(rest))
    chosen += [rest[number * len(rest) // wanted] for number in range(wanted)]
    return sorted(chosen)


def _scored(model: Mapping[str, Any]) -> bool:
    return bool(model["quality"] and model["quality"].get("psnr_db"))


def _loaded(folder: Path, entry: Mapping[str, Any]) -> Tensor | None:
    try:
        return read_picture(folder / entry["pictures"][0])
    except PictureError:
        return None  # the result says it already, where quality is missing


def _height(picture: Tensor) -> int:
    """In the sheet's size; what is far from square is drawn as if it were nearer."""
    return min(max(round(SIDE * picture.shape[1] / picture.shape[2]), SIDE // 8), 4 * SIDE)


def _thumbnail(picture: Tensor, height: int) -> Picture:
    """uint8 [1, H, W, 3] in the sheet's size; small pictures are enlarged without smoothing."""
    from PIL import Image

    image = Image.fromarray(picture[0].numpy())
    method = Image.Resampling.NEAREST if image.width < SIDE else Image.Resampling.LANCZOS
    return image.resize((SIDE, height), method)


def _caption(entry: Mapping[str, Any]) -> str:
    scores = entry.get("scores")
    if scores is None:
        return "not compared"
    return "equal" if scores["psnr_db"] is None else f"PSNR {scores['psnr_db']:.2f} dB, HaarPSI {scores['haarpsi']:.4f}"
