"""`sweep`: many configurations from one measurement, the table, files of those that are asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.calibration import Collector, save
from nvfp4_studio.converters import open_source

Run = Callable[..., Any]


def words(folder: Path, *more: object) -> list[object]:
    calibration = folder / "statistics.safetensors"
    return ["sweep", folder / "model.safetensors", "--calibration", calibration, "--device", "cpu", *more]


@pytest.fixture(scope="module")
def stem(calibrated_model: Path) -> Path:
    return calibrated_model / "table"


MANY = ["--recipes", "generic", "weight-only", "--roundings", "nearest", "gptq", "--targets", "all", "attn"]


def test_one_table_of_everything(calibrated_model: Path, stem: Path, run: Run) -> None:
    result = run(*words(calibrated_model, *MANY, "--budgets", "size<=0.4", "speed>=99", "--out", stem))
    assert result.status == 0, result.err
    data = json.loads((stem.parent / "table.json").read_text())
    rows = {row["name"]: row for row in data["rows"]}
    recipes = {f"{recipe}-{rounding}" for recipe in ("generic", "weight-only") for rounding in ("nearest", "gptq")}
    formats = {f"nvfp4-{target}-{rounding}" for target in ("all", "attn") for rounding in ("nearest", "gptq")}
    for name in ("mxfp8", "float8_e4m3fn", "int8_tensorwise", "fp8-row", "int4-g128", "int3-g128", "int2-g64"):
        formats |= {f"{name}-all", f"{name}-attn"}
    assert rows.keys() == {"source", "size<=0.4"} | recipes | formats
    assert set(data["left_out"]) == {"speed>=99"} and "cannot be kept" in data["left_out"]["speed>=99"]
    assert {row["id"] for row in data["rows"]} >= {"0", "1a", "2a", "3a"}
    assert rows["int2-g64-all"]["error"] > rows["int3-g128-all"]["error"] > rows["int4-g128-all"]["error"]
    assert rows["nvfp4-all-gptq"]["error"] < rows["nvfp4-all-nearest"]["error"]
    assert rows["nvfp4-all-nearest"]["beaten_by"] in {row["id"] for row in data["rows"]}
    assert (rows["fp8-row-all"]["phase"], rows["size<=0.4"]["phase"], rows["int3-g128-all"]["phase"]) == (1, 2, 3)
    simulated = {name for name, row in rows.items() if row["simulated"]}
    assert simulated == {name for name in rows if name.startswith(("fp8-row", "int4", "int3", "int2"))}
    assert all(rows[name]["speed"] is None and "simulated" in rows[name]["verdict"] for name in simulated)
    assert "PHASE 3" in result.out and "INT3, groups of 128" in result.out
    assert "| 2a |" in (stem.parent / "table.md").read_text()


def test_predicted_sizes_are_those_of_the_files(calibrated_model: Path, stem: Path, run: Run) -> None:
    asked = words(calibrated_model, *MANY, "--budgets", "size<=0.4", "--out", stem, "--json")
    names = ["generic-gptq", "size<=0.4", "int8_tensorwise-attn"]
    first = run(*asked, "--write", *names)
    assert first.status == 0, first.err
    rows = {row["name"]: row for row in json.loads(first.out[: first.out.index("\n}\n") + 3])["rows"]}
    paths = [
        stem.parent / f"table-{name}.safetensors" for name in ("generic-gptq", "size__0.4", "int8_tensorwise-attn")
    ]
    for name, path in zip(names, paths, strict=True):
        assert path.stat().st_size == rows[name]["bytes"]
        assert json.loads(path.with_name(path.stem + ".report.json").read_text())["summary"]
    with open_source(paths[0]) as written:
        assert json.loads(written.metadata["nvfp4_studio"])["rounding"] == "gptq"
    again = run(*asked, "--write", *names)
    assert [line.endswith("was written before.") for line in again.out.splitlines()[-3:]] == [True] * 3


def test_what_cannot_be_written_is_said_before_anything_is(calibrated_model: Path, stem: Path, run: Run) -> None:
    for name, said in {
        "int2-g64-all": "ComfyUI cannot run it",
        "source": "it is the source itself",
        "x": "There is no configuration 'x'",
    }.items():
        result = run(*words(calibrated_model, *MANY, "--out", stem, "--write", "weight-only-gptq", name))
        assert (result.status, said in result.err) == (1, True)
        assert not (stem.parent / "table-weight-only-gptq.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--formats", "int1"], "There is no format 'int1'; choose among"),
        (["--roundings", "best"], "There is no rounding method 'best'"),
        (["--budgets", "x"], "'x' is no budget"),
        (["--targets", "nothing"], "No layer that the rules let change has 'nothing' in its name"),
        (["--recipes", "none"], "There is no recipe 'none'"),
        (["--timesteps", "late"], "There is no weighting 'late'; choose one of uniform, schedule"),
    ],
)
def test_wrong_words(calibrated_model: Path, run: Run, more: list[str], said: str) -> None:
    result = run(*words(calibrated_model, *more))
    assert (result.status, said in result.err) == (1, True)


def test_a_sweep_goes_on_where_it_was_cut_off(
    calibrated_model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel in the simulated formats: the next run measures no layer twice and ends as one that was never stopped."""
    from nvfp4_studio.converters.sweep import simulating

    whole = tmp_path / "whole"
    small = ["--formats", "int4-g128", "--recipes", "generic"]
    assert run(*words(calibrated_model, *small, "--out", whole)).status == 0
    measured: list[str] = []
    original = simulating._noise

    def counting(context: Any, calibration: Any, sensitivity: Any, layer: Any, *more: Any) -> Any:
        measured.append(layer.name)
        if len(measured) == 5:
            raise KeyboardInterrupt
        return original(context, calibration, sensitivity, layer, *more)

    monkeypatch.setattr(simulating, "_noise", counting)
    cut = tmp_path / "cut"
    assert run(*words(calibrated_model, *small, "--out", cut)).status == 130
    kept = len((tmp_path / ".cut.simulated").read_text().splitlines()) - 1
    measured.clear()
    measured.append("not counted")
    monkeypatch.setattr(simulating, "_noise", original)
    assert kept > 0
    assert run(*words(calibrated_model, *small, "--out", cut)).status == 0
    one, other = (json.loads(path.with_suffix(".json").read_text()) for path in (whole, cut))
    assert one == other
    assert all(math.isfinite(row["error"]) for row in one["rows"])


def test_rows_count_by_the_weighting_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    """Inputs of late steps have outlier channels, so that errors differ when early ones weigh more."""
    torch.manual_seed(3)
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(
        torch.nn.ModuleDict({name: torch.nn.Linear(256, 256, bias=False) for name in ("attn", "mlp")}) for _ in range(2)
    )
    save_file(
        {name: weight.detach().bfloat16() for name, weight in model.named_parameters()}, tmp_path / "m.safetensors"
    )
    collector = Collector(model, detail="curvature")
    for sigma, spread in ((0.95, 0.0), (0.1, 2.0)):
        with collector.observing(sigma):
            for block in model.blocks:
                for linear in block.values():
                    sizes = torch.exp(spread * torch.randn(256))
                    linear(torch.randn(512, 256) * sizes / sizes.square().mean().sqrt())
    save(collector.finish(images=1), tmp_path / "c.safetensors")
    asked = ["sweep", tmp_path / "m.safetensors", "--calibration", tmp_path / "c.safetensors", "--device", "cpu"]
    few = ["--formats", "nvfp4", "int4-g128", "--recipes", "weight-only", "--json", "--out", tmp_path / "t"]
    told = {}
    for weighting in ("uniform", "early", "uniform"):
        result = run(*asked, *few, "--timesteps", weighting)
        assert result.status == 0, result.err
        data = json.loads(result.out)
        assert data["weighting"] == weighting
        assert f"weighting {weighting}: " in (tmp_path / "t.md").read_text()
        errors = {row["name"]: row["error"] for row in data["rows"]}
        assert told.setdefault(weighting, errors) == errors
    for name in ("nvfp4-all-auto", "int4-g128-all"):
        assert told["early"][name] != pytest.approx(told["uniform"][name], rel=1e-4)


def test_simulated_formats_are_those_of_todays_calibration(calibrated_model: Path, tmp_path: Path, run: Run) -> None:
    """Calibrated anew under the same name: nothing that was measured on the rows of before is taken."""
    from nvfp4_studio.calibration import load

    small = ["--formats", "int4-g128", "--recipes", "generic", "--device", "cpu"]
    seen = load(calibrated_model / "statistics.safetensors")
    named = tmp_path / "statistics.safetensors"
    words_now = ["sweep", calibrated_model / "model.safetensors", "--calibration", named, *small]
    save(seen, named)
    assert run(*words_now, "--out", tmp_path / "t").status == 0
    before = (tmp_path / ".t.simulated").read_text().splitlines()
    save(replace(seen, steps=seen.steps + 1), named)
    assert run(*words_now, "--out", tmp_path / "t").status == 0
    after = (tmp_path / ".t.simulated").read_text().splitlines()
    assert before[0] != after[0] and before[1:] == after[1:]
