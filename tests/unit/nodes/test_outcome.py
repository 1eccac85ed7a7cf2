"""What a comparison says: JSON without what JSON lacks, Markdown with both tables, lines for the node."""

from __future__ import annotations

import json
import math

import pytest

from nvfp4_studio.converters.pictures import Scores, summarise
from nvfp4_studio.nodes.comparing.outcome import LISTED, Latents, Outcome, sqnr


def steps(*errors: float) -> list[dict[str, object]]:
    return [
        {"step": number, "sigma": 1 - number / 4, "relative_rms": [error, error]} for number, error in enumerate(errors)
    ]


def outcome(*scores: Scores, errors: tuple[float, ...] = (0.01, 0.04, 0.02), **more: object) -> Outcome:
    latents = Latents([errors[-1]] * 2, steps(*errors), {"dtype": "float32", "every": 1}, (2.0, 1.0), (0.5, 0.25))
    return Outcome(
        ("a", "b"),
        scores=scores,
        summary=summarise(scores) if scores else None,
        gain=10,
        latents=latents,
        settings={"seed": 7, "steps": 3},
        **more,
    )


def test_json_is_json_and_holds_every_figure() -> None:
    found = json.loads(
        json.dumps(outcome(Scores(30.0, 0.9, 0.8), Scores(math.inf, 1.0, 1.0)).as_json(), allow_nan=False)
    )
    assert found["pictures"] == [
        {"psnr": 30.0, "ssim": 0.9, "haarpsi": 0.8, "equal": False},
        {"psnr": None, "ssim": 1.0, "haarpsi": 1.0, "equal": True},
    ]
    assert found["summary"]["psnr"] == 30.0 and found["summary"]["equal"] == 1
    assert [step["relative_rms"][0] for step in found["latents"]["steps"]] == [0.01, 0.04, 0.02]
    assert found["settings"] == {"seed": 7, "steps": 3} and found["names"] == ["a", "b"]


def test_markdown_has_a_row_for_each_picture_and_step() -> None:
    page = outcome(Scores(30.0, 0.9, 0.8), Scores(math.inf, 1.0, 1.0), notes=["a note"]).markdown()
    assert page.startswith("# b against a\n") and "> a note" in page
    assert "| 1 | 30.00 | 0.9000 | 0.8000 |" in page and "| 2 | equal | 1.0000 | 1.0000 |" in page
    assert "| 2 | 0.75 | 4.000% | 28.0 |" in page
    assert "at most 4.00% at step 2, 2.00% at the last" in page
    assert "seed 7, steps 3" in page


def test_many_pictures_are_shortened_to_the_farthest() -> None:
    scores = [Scores(30.0 + number, 0.9, 0.8) for number in range(100)]
    page = outcome(*reversed(scores)).markdown()
    assert page.count("0.9000 | 0.8000") == LISTED
    assert "| 100 | 30.00 |" in page and f"the {LISTED} of 100" in page


@pytest.mark.parametrize(("count", "words"), [(1, "equal in every pixel"), (3, "All 3 pictures are equal")])
def test_equal_pictures_are_called_equal(count: int, words: str) -> None:
    lines = "\n".join(outcome(*[Scores(math.inf, 1.0, 1.0)] * count, errors=(0.0, 0.0)).lines())
    assert words in lines and "Final latent: equal" in lines and "Denoised" not in lines


def test_latents_alone_have_their_figures() -> None:
    lines = outcome(errors=(0.01,)).lines()
    assert lines[0] == "b against a" and "1.00% relative RMS error, 40.0 dB" in lines[1]
    assert not any("PSNR" in line for line in lines)


def test_decibels_of_an_error() -> None:
    assert sqnr(0.1) == pytest.approx(20) and sqnr(0) == math.inf
