"""Pictures of a comparison: their scores, the sheet, and the files that the slider on the node loads."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ...converters.pictures import Scores, Summary, as_saved, fitting_gain, nonfinite, score, summarise
from ...converters.plots import stacked
from ...converters.plots.canvas import ORANGE
from ...converters.plots.curves import Curve, Height, curve_chart
from ...converters.plots.pairs import picture_sheet, spread
from .outcome import Outcome

ROWS = 6
SLIDES = 16
"""Pairs that are written for the slider: every one costs two PNG files in ComfyUI's temp folder."""
SLIDER_OUTPUT = "nvfp4_slider"
COMPARISON_OUTPUT = "nvfp4_comparison"


class Pictures:
    """Two batches as ComfyUI would save them, with their scores. Frames of a video are pictures."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor, each: Callable[[int, int], None]) -> None:
        self.broken = (nonfinite(first), nonfinite(second))
        self.first, self.second = as_saved(first), as_saved(second)
        self.scores: list[Scores] = score(self.first, self.second, each)
        self.summary: Summary = summarise(self.scores)
        self.gain: int = fitting_gain(self.first, self.second)

    def notes(self, names: tuple[str, str]) -> list[str]:
        """Pictures that hold NaN or infinity: what is shown of them is black where ComfyUI saves black."""
        return [
            f"{name}: {len(numbers)} of {len(self.scores)} pictures hold NaN or infinity, the first is number "
            f"{numbers[0] + 1}; its figures mean nothing."
            for name, numbers in zip(names, self.broken, strict=True)
            if numbers
        ]

    def sheet(self, outcome: Outcome) -> Any:
        """Rows of pictures, with a curve of PSNR below when there are more than can be shown."""
        shown = spread(len(self.scores), ROWS, self.summary.worst)
        title = f"{outcome.names[1]} against {outcome.names[0]}"
        parts = [
            picture_sheet(title, _note(self), outcome.names, self.first, self.second, self.scores, shown, self.gain)
        ]
        if len(shown) < len(self.scores):
            points = [(number + 1, pair.psnr) for number, pair in enumerate(self.scores)]
            height = Height("PSNR, dB")
            note = f"the sheet shows {len(shown)} of {len(self.scores)}, with the farthest"
            chart = curve_chart(
                "PSNR of each picture", note, [Curve("", points)], "picture", height, width=parts[0].width, named=False
            )
            parts.append(chart)
        return stacked(parts)

    def slider(self, names: tuple[str, str], cls: type[io.ComfyNode]) -> dict[str, Any]:
        """Names of the saved pairs, as ComfyUI's /view takes them."""
        chosen = spread(len(self.scores), SLIDES, self.summary.worst)
        # ComfyUI counts anew after a restart: a page that is still open would take its old picture for the new one.
        run = secrets.token_hex(4)
        saved = [
            ui.ImageSaveHelper.save_images(
                batch[chosen].float() / 255,
                filename_prefix=f"nvfp4_compare_{letter}_{run}",
                folder_type=io.FolderType.temp,
                cls=cls,
                compress_level=1,
            )
            for letter, batch in (("a", self.first), ("b", self.second))
        ]
        captions = [{"number": number + 1, **_figures(self.scores[number])} for number in chosen]
        return {"names": list(names), "first": saved[0], "second": saved[1], "pictures": captions}


def with_trajectory(sheet: Any | None, outcome: Outcome) -> Any:
    """The sheet with the error of each step below; without pictures the curve alone."""
    parts = [sheet] if sheet is not None else []
    latents = outcome.latents
    if latents and latents.steps:
        chart = trajectory_chart(latents.steps, width=sheet.width if sheet is not None else 1100)
        parts.append(chart)
    return stacked(parts)


def trajectory_chart(steps: Sequence[dict[str, Any]], width: int) -> Any:
    """Relative error of the denoised prediction by step: the mean, and thin lines for each latent of a batch."""
    each = [
        Curve("", [(step["step"] + 1, 100 * step["relative_rms"][number]) for step in steps], (190, 210, 228), 1)
        for number in range(len(steps[0]["relative_rms"]))
    ]
    mean = Curve("", [(step["step"] + 1, 100 * statistics.fmean(step["relative_rms"])) for step in steps], ORANGE)
    note = "relative RMS difference of the two denoised predictions; at the first step the input is the same"
    return curve_chart(
        "Where the trajectories part",
        note + (f"; thin: each of {len(each)} latents" if len(each) > 1 else ""),
        [*(each if len(each) > 1 else []), mean],
        "step",
        Height("difference, %", logarithmic=True),
        width=width,
        named=False,
    )


def as_image(sheet: Any) -> torch.Tensor:
    """A drawn page as ComfyUI's IMAGE: float32 [1, H, W, 3]."""
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]


def _figures(scores: Scores) -> dict[str, float | None]:
    return {"psnr": None if scores.equal else scores.psnr, "ssim": scores.ssim, "haarpsi": scores.haarpsi}


def _note(pictures: Pictures) -> str:
    summary = pictures.summary
    if len(pictures.scores) == 1:
        return "PSNR and SSIM of the 8-bit pictures, as they are saved"
    mean = "all equal" if summary.equal == summary.pairs else f"mean PSNR {summary.psnr:.2f} dB"
    return f"{summary.pairs} pictures: {mean}, SSIM {summary.ssim:.4f}, HaarPSI {summary.haarpsi:.4f}"
