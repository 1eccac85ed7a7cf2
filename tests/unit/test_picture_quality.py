"""The README's table of picture quality is what the last result says, its statistics are right, and auto obeys it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nvfp4_studio.benchmarks.quality.pictures import mean_and_interval, psnr_by_seed
from nvfp4_studio.benchmarks.quality.ways import COMBINED
from nvfp4_studio.converters.rounding import METHODS

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = ROOT / "benchmarks" / "picture_quality.py"
RESULT, REDRAWN = (
    json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))
    for name in ("picture_quality", "rounding_draws")
)
ALLOWED = {
    "scales": {name for name, method in METHODS.items() if method.NEEDS == "scales"},
    "channels": {name for name, method in METHODS.items() if method.NEEDS != "curvature"},
    "curvature": set(METHODS),
}


def test_readme_holds_the_table_of_the_last_result(tmp_path: Path) -> None:
    readme = Path(shutil.copy(ROOT / "benchmarks" / "README.md", tmp_path))
    arguments = [sys.executable, str(COMMAND), "--write-readme", "--readme", str(readme)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert readme.read_text("utf-8") == (ROOT / "benchmarks" / "README.md").read_text("utf-8")


def test_result_covers_every_rounding_on_both_models() -> None:
    assert (RESULT["seeds"], RESULT["classes"]) == (40, 10)
    for model in RESULT["models"].values():
        assert set(METHODS) <= set(model["roundings"])


@pytest.mark.parametrize("detail", ALLOWED)
@pytest.mark.parametrize("model", REDRAWN["models"])
def test_no_method_that_auto_could_take_is_better_beyond_doubt(model: str, detail: str) -> None:
    """Paired by draw, with quantized activations and with weights alone."""
    (taken,) = RESULT["models"][model]["auto"][detail]
    measured = REDRAWN["models"][model]
    for mode in ("quantized", "emulated"):
        for other in ALLOWED[detail] - {taken}:
            pairs = zip(measured[taken][mode]["by_draw_db"], measured[other][mode]["by_draw_db"], strict=True)
            mean, interval = mean_and_interval([ours - theirs for ours, theirs in pairs])
            assert mean > -interval, (mode, other, mean, interval)


@pytest.mark.parametrize("model", RESULT["models"])
def test_gptq_is_three_decibels_above_nearest(model: str) -> None:
    for measured in (RESULT["models"][model]["roundings"], REDRAWN["models"][model]):
        assert measured["gptq"]["quantized"]["over_nearest_db"] >= 3.0


@pytest.mark.parametrize("combined", ["pre_quant_scale", "measured gain"])
@pytest.mark.parametrize("model", RESULT["models"])
def test_what_a_measurement_accepted_is_not_further_away_beyond_doubt(model: str, combined: str) -> None:
    roundings = RESULT["models"][model]["roundings"]
    for method in COMBINED:
        pairs = (roundings[name]["quantized"]["by_seed_db"] for name in (f"{method} + {combined}", method))
        mean, interval = mean_and_interval([ours - alone for ours, alone in zip(*pairs, strict=True)])
        assert mean > -interval, (method, mean, interval)


def test_interval_of_known_values() -> None:
    mean, interval = mean_and_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert mean == 3.5
    assert interval == pytest.approx(2.5706 * math.sqrt(3.5 / 6), rel=2e-3)


def test_psnr_is_averaged_over_a_seeds_pictures() -> None:
    reference = torch.zeros(2, 2, 4, 4)
    other = torch.tensor([0.1, 0.01]).reshape(1, 2, 1, 1).expand_as(reference)
    assert psnr_by_seed(reference, other) == pytest.approx([30.0, 30.0], abs=1e-4)
