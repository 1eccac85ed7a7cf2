"""`plan` and `convert` with `--pre-quant search` and `--gain`: found, told, kept as a recipe, refused beside a budget."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Collector, save

Run = Callable[..., Any]
SEARCH = ["--pre-quant", "search", "--rounding", "nearest", "--recipe", "weight-only"]


@pytest.fixture(scope="module")
def uneven_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.safetensors, four layers in bfloat16 whose input channels are of very different size, and
    statistics.safetensors with detail curvature."""
    folder = tmp_path_factory.mktemp("uneven")
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(
        torch.nn.ModuleDict({name: torch.nn.Linear(256, 256, bias=False) for name in ("attn", "mlp")}) for _ in range(2)
    )
    save_file(
        {name: weight.detach().bfloat16() for name, weight in model.named_parameters()}, folder / "model.safetensors"
    )
    collector = Collector(model, detail="curvature")
    with collector.observing(0.5):
        for linear in (linear for block in model.blocks for linear in block.values()):
            linear(torch.randn(2048, 256) * torch.exp(1.3 * torch.randn(256)))
    save(collector.finish(images=1), folder / "statistics.safetensors")
    return folder


def words(folder: Path, verb: str, *more: object) -> list[object]:
    return [verb, folder / "model.safetensors", *more, "--calibration", folder / "statistics.safetensors"]


def test_a_search_is_told_and_its_recipe_makes_the_same_file(uneven_model: Path, run: Run, tmp_path: Path) -> None:
    recipe, searched, again = (tmp_path / name for name in ("found.json", "searched.safetensors", "again.safetensors"))
    done = run(*words(uneven_model, "convert", searched, *SEARCH, "--gain", "--save-recipe", recipe))
    assert done.status == 0 and f"Wrote {recipe}." in done.err, done.err
    scaled = sum(name.endswith(".pre_quant_scale") for name in load_file(searched))
    assert scaled > 0 and f"Measured pre_quant_scale: {scaled} of 4 NVFP4 layers." in done.out
    assert "Measured gain: 4 of 4 NVFP4 layers, in those whose outputs lack their length." in done.out
    repeated = ["--recipe", recipe, "--rounding", "nearest", "--gain"]
    assert run(*words(uneven_model, "convert", again, *repeated)).status == 0
    one, other = load_file(searched), load_file(again)
    assert one.keys() == other.keys()
    assert all(
        torch.equal(one[name].reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)) for name in one
    )


def test_a_plan_searches_and_writes_nothing_but_the_recipe(uneven_model: Path, run: Run, tmp_path: Path) -> None:
    before = sorted(uneven_model.iterdir())
    done = run(*words(uneven_model, "plan", *SEARCH, "--save-recipe", tmp_path / "found.json"))
    assert done.status == 0, done.err
    assert re.search(r"^- pre_quant_scale: [1-9]\d* of 4 NVFP4 layers$", done.out, re.MULTILINE)
    assert "every layer; pre_quant_scale: exponent 0." in done.out
    assert sorted(uneven_model.iterdir()) == before and (tmp_path / "found.json").is_file()


def test_a_sweep_predicts_a_recipe_with_what_was_found(uneven_model: Path, run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "found.json"
    assert run(*words(uneven_model, "plan", *SEARCH, "--save-recipe", recipe)).status == 0
    few = ["--recipes", "weight-only", recipe, "--formats", "nvfp4", "--roundings", "nearest", "--out", tmp_path / "t"]
    done = run(*words(uneven_model, "sweep", *few, "--device", "cpu", "--json"))
    assert done.status == 0, done.err
    errors = {row["name"]: row["error"] for row in json.loads(done.out)["rows"]}
    assert errors["found-nearest"] < 0.9 * errors["weight-only-nearest"]


@pytest.mark.parametrize("more", [["--pre-quant", "search"], ["--gain"]])
def test_beside_a_budget_they_are_refused(uneven_model: Path, run: Run, more: list[str]) -> None:
    result = run(*words(uneven_model, "plan", "--budget", "size<=0.6", *more))
    assert (result.status, "sensitivity --pre-quant 0.25,0.5 --gain" in result.err) == (1, True)


def test_without_rows_both_are_refused(uneven_model: Path, run: Run) -> None:
    for more in (["--pre-quant", "search"], ["--gain"]):
        result = run("plan", uneven_model / "model.safetensors", *more)
        assert (result.status, "there is no calibration; calibrate with detail curvature" in result.err) == (1, True)
