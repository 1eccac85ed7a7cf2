"""The sheet of a comparison: what it shows stands in its pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nvfp4_studio.converters.pictures import Scores, score
from nvfp4_studio.converters.plots import canvas
from nvfp4_studio.converters.plots.canvas import text_width
from nvfp4_studio.converters.plots.curves import Curve, Height, curve_chart
from nvfp4_studio.converters.plots.pairs import caption, picture_sheet, spread


def has(image: object, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == colour).all(-1).any())


@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (1024, 640, 3), (40, 300, 1), (16, 16, 4)])
def test_sheet_shows_both_pictures_and_the_gain_of_their_difference(height: int, width: int, channels: int) -> None:
    first, second = torch.full((2, height, width, channels), 90), torch.full((2, height, width, channels), 97)
    first, second = first.to(torch.uint8), second.to(torch.uint8)
    sheet = picture_sheet("b against a", "", ("a", "b"), first, second, score(first, second), [0, 1], gain=10)
    assert all(has(sheet, (level,) * 3) for level in (90, 97, 70))
    assert sheet.width < 2000 and sheet.height < 2000


def test_one_picture_is_shown_larger_than_several() -> None:
    pictures = torch.zeros(3, 1024, 1024, 3, dtype=torch.uint8)
    scores = [Scores(30, 0.9, 0.8)] * 3
    alone, several = (
        picture_sheet("", "", ("a", "b"), pictures, pictures, scores, shown, 1) for shown in ([0], [0, 1])
    )
    assert alone.width > several.width


def test_shown_pairs_are_spread_and_hold_the_worst() -> None:
    assert spread(4, 6, 2) == [0, 1, 2, 3]
    for worst in range(81):
        shown = spread(81, 6, worst)
        assert worst in shown and len(shown) == 6 and shown == sorted(shown)


def test_long_texts_keep_both_ends_and_are_measured_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"a cat on mat {number}," for number in range(200)) + " the end"
    calls: list[str] = []

    def measured(text: str, size: int = canvas.NORMAL) -> int:
        calls.append(text)
        return text_width(text, size)

    monkeypatch.setattr(canvas, "text_width", measured)
    short = canvas.shortened(text, 300)
    assert short.startswith("a cat") and short.endswith("the end") and 280 < text_width(short) <= 300
    assert len(calls) < 20, "a prompt may have thousands of characters"
    assert canvas.shortened("abc", 300) == "abc" and canvas.shortened("abcdefgh", 1) == "a...h"


def test_captions_name_the_scores() -> None:
    assert caption(Scores(31.26, 0.98765, 0.9)) == "PSNR 31.3 dB, SSIM 0.9877, HaarPSI 0.9000"
    assert caption(Scores(math.inf, 1, 1)) == "equal in every pixel"


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "values", [[1.0], [3.0, 3.1], [0.0, 1e-6, 4e3], [5, math.inf, 5], [1e-9, 1e-8], [-3.0, 2.0]], ids=str
)
def test_curves_of_any_range_are_drawn(values: list[float], logarithmic: bool) -> None:
    curve = Curve("error", list(enumerate(values, start=1)), (1, 2, 3))
    image = curve_chart("title", "note", [curve], "step", Height("error, %", logarithmic))
    assert has(image, (1, 2, 3))


def test_nothing_to_draw_is_said() -> None:
    image = curve_chart("title", "", [Curve("", [(1, 0.0), (2, 0.0)], (1, 2, 3))], "step", Height("error", True))
    assert not has(image, (1, 2, 3)) and image.height > 0
