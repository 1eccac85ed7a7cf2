"""The last result of the benchmark of budgets: they are closer to the source than recipes of their size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nvfp4_studio.benchmarks.budgeting.table import BEGIN, END, NAMES

ROOT = Path(__file__).resolve().parent.parent.parent
RESULT = json.loads((ROOT / "benchmarks" / "results" / "budgets.json").read_text("utf-8"))
GROUPS = [(model, label) for model, groups in RESULT["models"].items() for label in groups]


def test_result_is_of_both_models_and_400_pictures() -> None:
    assert (RESULT["seeds"], RESULT["classes"]) == (40, 10)
    assert RESULT["models"].keys() == {"flux", "sd3"}


@pytest.mark.parametrize(("model", "label"), GROUPS)
def test_a_budget_is_above_the_recipe_of_its_size_beyond_doubt(model: str, label: str) -> None:
    """Unless the family's rules leave a single choice of that size: the recipe's own."""
    ways = RESULT["models"][model][label]
    for name in ("budget", "budget beyond rules"):
        found = ways[name]
        assert found["bytes"] <= ways["recipe"]["bytes"]
        if (found["bytes"], found["nvfp4_layers"]) != (ways["recipe"]["bytes"], ways["recipe"]["nvfp4_layers"]):
            assert found["over_recipe_db"] > found["over_recipe_interval_db"]
            assert found["nvfp4_share"] >= ways["recipe"]["nvfp4_share"] - 0.001


@pytest.mark.parametrize(("model", "label"), GROUPS)
def test_influence_does_no_harm(model: str, label: str) -> None:
    ways = RESULT["models"][model][label]
    for name in ("budget", "budget beyond rules"):
        assert ways[name]["psnr_db"] >= ways[f"{name}, own errors only"]["psnr_db"]


def test_the_command_writes_the_table_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    arguments = [sys.executable, str(ROOT / "benchmarks" / "budgets.py"), "--write-readme", "--readme", str(readme)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = readme.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.count("| ") > 40 and all(name in text for name in NAMES.values())
