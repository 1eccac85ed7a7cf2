"""`plan` and `convert` with a budget: measured once, kept in a file, chosen, written and told."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nvfp4_studio.converters import load_recipe, open_source

BLOCKS = 3
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def measured(calibrated_model: Path) -> Path:
    """A folder with a model, its calibration and, after the first budget, its sensitivity."""
    return calibrated_model


def words(folder: Path, verb: str, *more: object) -> list[object]:
    return [verb, folder / "model.safetensors", *more, "--calibration", folder / "statistics.safetensors"]


def test_a_budget_is_measured_kept_and_told(measured: Path, run: Run) -> None:
    first = run(*words(measured, "plan", "--budget", "size<=0.6", "--json", "--out", measured / "page"))
    assert first.status == 0, first.err
    sensitivity = measured / "model-sensitivity.json"
    assert f"Wrote {sensitivity}." in first.err
    plan = json.loads(first.out)
    assert plan["output_bytes"] <= 0.6 * plan["source_bytes"]
    assert plan["budget"]["exact"] and plan["budget"]["by_size"]
    items = plan["budget"]["items"]
    assert len({item["policy"] for item in items}) > 1
    assert all(list(item["choices"]) == item["layers"] for item in items)
    assert all(label.startswith(item["policy"]) for item in items for label in item["choices"].values())
    assert all((measured / f"page.{ending}").stat().st_size > 100 for ending in ("json", "md", "png"))
    again = run(*words(measured, "plan", "--budget", "size<=0.6"))
    assert "Wrote" not in again.err
    assert "# Budget size<=0.6 for model.safetensors" in again.out and "# Plan for model.safetensors" in again.out


def test_a_budget_by_another_weighting_is_measured_with_it(measured: Path, run: Run) -> None:
    asked = [*words(measured, "plan", "--budget", "size<=0.6", "--json"), "--timesteps"]
    first = run(*asked, "early")
    assert first.status == 0 and "Wrote" in first.err, first.err
    sensitivity = measured / "model-sensitivity.json"
    assert json.loads(sensitivity.read_text())["weighting"] == "early"
    assert "Wrote" not in run(*asked, "early").err
    refused = run(*asked, "path", "--sensitivity", sensitivity)
    assert (refused.status, "was measured with --timesteps early, not 'path'" in refused.err) == (1, True)
    assert "There is no weighting 'late'" in run(*asked, "late").err


def test_speed_is_predicted_for_the_gpu_that_is_asked_for(measured: Path, run: Run) -> None:
    asked = words(measured, "plan", "--budget", "speed>=1.1")
    for table in ("b200", "rtx-5080"):
        told = run(*asked, "--kernels", table)
        assert told.status == 0 and f"× FP8 ({table})" in told.out, told.err
    refused = run(*asked, "--kernels", "b200", "--sensitivity", measured / "model-sensitivity.json")
    assert (refused.status, "was measured with --kernels rtx-5080, not 'b200'" in refused.err) == (1, True)
    assert "There is no table of kernel speeds 'mine'" in run(*asked, "--kernels", "mine").err


def test_ties_and_their_absence(measured: Path, run: Run) -> None:
    formats = []
    for more in ([], ["--no-ties"]):
        plan = json.loads(run(*words(measured, "plan", "--budget", "size<=0.6", "--json", *more)).out)
        formats.append([item["layers"] for item in plan["budget"]["items"]])
    assert [len(layers) for layers in formats] == [2 * BLOCKS, 4 * BLOCKS]
    assert formats[0][0] == [f"blocks.0.attn.to_{letter}" for letter in "kqv"]


def test_a_converted_file_tells_how_its_formats_were_chosen(measured: Path, run: Run) -> None:
    target, recipe = measured / "out.safetensors", measured / "chosen.json"
    budget = ["--budget", "speed>=1.1", "--save-recipe", recipe, "--device", "cpu"]
    done = run(*words(measured, "convert", target, *budget))
    assert done.status == 0, done.err
    with open_source(target) as written:
        made = json.loads(written.metadata["nvfp4_studio"])
    assert made["recipe"] == "generic within speed>=1.1"
    assert made["recipe_content"]["layers"] == json.loads(recipe.read_text())["layers"]
    assert load_recipe(str(recipe)).layers
    page = (measured / "out.report-budget.md").read_text()
    assert "# Budget speed>=1.1" in page and "(out.report-budget.png)" in page
    again = run(*words(measured, "convert", measured / "again.safetensors", "--recipe", recipe, "--device", "cpu"))
    assert again.status == 0, again.err
    one, other = (open_source(measured / f"{name}.safetensors") for name in ("out", "again"))
    with one, other:
        assert all(torch.equal(one.read(name), other.read(name)) for name in one.tensors)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--no-ties"], "--no-ties belongs to a budget"),
        (["--timesteps", "path"], "--timesteps belongs to a budget"),
        (["--kernels", "b200"], 'add --budget, for example --budget "size<=0.7", or let `nvfp4-studio sweep` predict'),
        (["--save-recipe", "x.json"], "--save-recipe belongs to a budget"),
        (["--out", "x"], "--out belongs to a budget"),
        (["--budget", "size<=0.5"], "A budget chooses by measured errors; add --calibration"),
    ],
)
def test_options_that_need_each_other(measured: Path, run: Run, more: list[str], said: str) -> None:
    result = run("plan", measured / "model.safetensors", *more)
    assert (result.status, said in result.err) == (1, True)


@pytest.mark.parametrize("option", [["--no-ties"], ["--save-recipe", "x.json"]])
def test_what_it_tells_to_add_can_be_pasted_into_a_shell(measured: Path, run: Run, option: list[str]) -> None:
    said = run("plan", measured / "model.safetensors", *option).err
    typed = re.search(r"for example (--budget \S+?)[.,]( |$)", said, re.MULTILINE)
    assert typed is not None
    assert list(shlex.shlex(typed[1], posix=True, punctuation_chars="<>")) == ["--budget", "size<=0.7"]


@pytest.mark.parametrize("verb", ["plan", "convert"])
def test_a_budget_chooses_the_rounding(measured: Path, run: Run, verb: str, tmp_path: Path) -> None:
    target = [tmp_path / "out.safetensors"] if verb == "convert" else []
    result = run(*words(measured, verb, *target, "--budget", "size<=0.6", "--rounding", "nearest"))
    assert (result.status, "sensitivity --roundings nearest" in result.err) == (1, True)
    assert not list(tmp_path.iterdir())


def test_an_impossible_budget_is_one_sentence(measured: Path, run: Run) -> None:
    result = run(*words(measured, "plan", "--budget", "speed>=9"))
    assert result.status == 1
    # Whichever test of this folder comes first also measures.
    said = [line for line in result.err.splitlines() if not line.startswith("Wrote ")]
    assert len(said) == 1
    assert "The budget speed>=9 cannot be kept: the fastest formats that the rules allow" in said[0]
