from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.cli import convert as convert_verb

Run = Callable[..., Any]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def converted(run: Run, checkpoint: Path, calibration: Path, tmp_path: Path) -> Path:
    target = tmp_path / "out" / "nvfp4.safetensors"
    target.parent.mkdir()
    result = run("convert", checkpoint, target, "--calibration", calibration, "--device", "cpu")
    assert result.status == 0, result.err
    return target


def test_inspect_in_words_and_json(run: Run, checkpoint: Path) -> None:
    result = run("inspect", checkpoint)
    assert result.status == 0
    for part in ("model.diffusion_model.", "26 tensors", "bfloat16", "text_encoder", "metadata: made"):
        assert part in result.out
    found = json.loads(run("inspect", checkpoint, "--json").out)
    assert found["storage"] == {"bfloat16": 25}
    assert found["components"]["diffusion_model"]["tensors"] == 25
    assert len(found["layers"]) == 26


def test_inspect_tells_how_fp8_is_stored(run: Run, converted: Path, checkpoint: Path, tmp_path: Path) -> None:
    import torch

    found = json.loads(run("inspect", converted, "--json").out)
    assert found["storage"]["nvfp4, tagged, with input_scale"] > 0
    tensors = {f"blocks.0.{name}.weight": torch.ones(16, 16).to(torch.float8_e4m3fn) for name in ("raw", "old", "new")}
    tensors["blocks.0.old.scale_weight"] = torch.tensor(0.5)
    tensors["blocks.0.new.weight_scale"] = torch.tensor(0.5)
    tensors["blocks.0.new.input_scale"] = torch.tensor(0.5)
    tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    path = tmp_path / "fp8.safetensors"
    save_file(tensors, path)
    by_name = {layer["name"]: layer["storage"] for layer in json.loads(run("inspect", path, "--json").out)["layers"]}
    assert by_name["blocks.0.raw"] == "float8_e4m3fn, raw cast"
    assert by_name["blocks.0.old"] == "float8_e4m3fn, legacy scale, full-precision matmul"
    assert by_name["blocks.0.new"] == "float8_e4m3fn, scaled, with input_scale"


def test_plan_writes_nothing(run: Run, checkpoint: Path, calibration: Path, tmp_path: Path) -> None:
    before = names_in(tmp_path)
    result = run("plan", checkpoint, "--calibration", calibration)
    assert (
        result.status == 0 and "| model.diffusion_model.blocks.1.attn.qkv | 256×256 | bfloat16 | nvfp4 |" in result.out
    )
    found = json.loads(run("plan", checkpoint, "--recipe", "weight-only", "--json").out)
    assert found["recipe"] == "weight-only" and found["options"]["rounding"] == "auto"
    assert names_in(tmp_path) == before


def test_plan_takes_every_option(run: Run, checkpoint: Path, calibration: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.json"
    recipe.write_text(json.dumps({"block_names": ["blocks."], "rules": [{"policy": "nvfp4", "match": ["attn"]}]}))
    words = ("--recipe", recipe, "--calibration", calibration, "--input-scale", "max", "--rounding", "nearest")
    found = json.loads(run("plan", checkpoint, *words, "--layout", "diffusion-model", "--json").out)
    assert found["options"] == {
        "recipe": str(recipe),
        "rounding": "nearest",
        "input_scale": "max",
        "layout": "diffusion-model",
        "text_encoder": "keep",
        "pre_quant": "off",
        "gain": False,
    }
    assert found["recipe"] == "mine" and found["calibration"] == "calibration.safetensors"
    assert not any(layer["name"].startswith("model.") for layer in found["layers"])


def test_convert_writes_the_file_and_its_report(run: Run, converted: Path) -> None:
    assert {name for name in names_in(converted.parent) if not name.endswith(".png")} == {
        "nvfp4.safetensors",
        "nvfp4.report.json",
        "nvfp4.report.md",
    }
    report = json.loads((converted.parent / "nvfp4.report.json").read_text())
    assert report["problems"] == [] and report["summary"]["nvfp4_layers"] > 0
    tensors = load_file(converted)
    assert "model.diffusion_model.blocks.1.attn.qkv.input_scale" in tensors
    with safe_open(converted, framework="pt") as file:
        assert "_quantization_metadata" in file.metadata()


def test_convert_says_what_it_did(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.safetensors"
    result = run("convert", checkpoint, target, "--device", "cpu", "--report", tmp_path / "elsewhere.json")
    assert result.status == 0
    assert f"Wrote {target}: " in result.out and "verified." in result.out and "mean SQNR" in result.out
    assert "elsewhere.json" in result.out and (tmp_path / "elsewhere.md").exists()
    assert "[" not in result.err and "\r" not in result.err, "no bar where there is no terminal"


def test_convert_does_not_overwrite_unless_asked(run: Run, checkpoint: Path, converted: Path) -> None:
    before = converted.read_bytes()
    result = run("convert", checkpoint, converted, "--device", "cpu", "--rounding", "nearest")
    assert result.status == 1 and "exists already; choose another name or use --overwrite." in result.err
    assert converted.read_bytes() == before
    folder = converted.with_name("folder.safetensors")
    folder.mkdir()
    result = run("convert", checkpoint, folder, "--device", "cpu", "--overwrite")
    assert result.status == 1 and "folder.safetensors is a folder; choose another name." in result.err
    result = run("convert", checkpoint, converted, "--device", "cpu", "--rounding", "nearest", "--overwrite")
    assert result.status == 0 and converted.read_bytes() != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recipe", "flx"), "There is no recipe 'flx'"),
        (("--recipe", "absent.json"), "absent.json cannot be read"),
        (("--rounding", "up"), "There is no rounding method 'up'"),
        (("--input-scale", "p50"), "There is no input_scale policy 'p50'"),
        (("--layout", "flat"), "There is no layout 'flat'"),
        (("--device", "npu"), "There is no device 'npu'"),
        (("--calibration", "absent.safetensors"), "There is no calibration absent.safetensors"),
        (("--report", "/absent/folder/report"), "The folder /absent/folder does not exist"),
    ],
)
def test_bad_options_are_refused_and_leave_no_file(
    run: Run, checkpoint: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    before = names_in(tmp_path)
    result = run("convert", checkpoint, tmp_path / "out.safetensors", *words)
    assert result.status == 1
    assert message in result.err and len(result.err.splitlines()) == 1
    assert names_in(tmp_path) == before


def test_a_calibration_of_another_model_is_refused_by_name(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"transformer_blocks.0.to_q": 1.0, "transformer_blocks.0.to_k": 2.0}))
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--calibration", other)
    assert result.status == 1
    assert "another model" in result.err and "transformer_blocks.0.to_k is not in the checkpoint" in result.err
    assert not (tmp_path / "out.safetensors").exists()


def test_an_imported_calibration_may_be_used_as_it_is(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    imported = tmp_path / "c.json"
    imported.write_text(json.dumps({f"blocks.{index}.attn.qkv": 1344.0 for index in range(8)}))
    found = json.loads(run("plan", checkpoint, "--calibration", imported, "--json").out)
    scales = {layer["module"]: layer["input_scale"] for layer in found["layers"]}
    assert scales["blocks.1.attn.qkv"] == 1.0


def test_a_report_that_cannot_be_written_says_that_the_file_is_good(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").mkdir()
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--device", "cpu", "--report", tmp_path / "r")
    assert result.status == 1
    assert "out.safetensors is complete and verified, but its report" in result.err
    assert (tmp_path / "out.safetensors").exists()


def test_a_full_gpu_is_a_sentence(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from nvfp4_studio import converters

    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(converters, "convert", full)
    result = run("convert", checkpoint, tmp_path / "out.safetensors")
    assert result.status == 1 and "Use --device cpu." in result.err


def test_verify_tells_good_from_bad(run: Run, checkpoint: Path, converted: Path, tmp_path: Path) -> None:
    good = run("verify", checkpoint, converted)
    assert good.status == 0 and "Good" in good.out and good.err == ""
    found = json.loads(run("verify", checkpoint, converted, "--json").out)
    assert found["good"] is True and found["worst_sqnr_db"] > 15
    tensors = load_file(converted)
    with safe_open(converted, framework="pt") as file:
        metadata = file.metadata()
    tensors["model.diffusion_model.final.weight"] += 1
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad, metadata)
    result = run("verify", checkpoint, bad)
    assert result.status == 1
    assert "model.diffusion_model.final.weight" in result.err
    result = run("verify", checkpoint, bad, "--json")
    assert result.status == 1 and json.loads(result.out)["good"] is False


def test_verify_says_in_one_sentence_that_a_file_is_of_something_else(
    run: Run, checkpoint: Path, calibration: Path
) -> None:
    result = run("verify", checkpoint, calibration)
    assert result.status == 1 and result.out == "" and len(result.err.splitlines()) == 1
    assert (
        "calibration.safetensors was not converted from model.safetensors: 25 of 25 tensors are missing" in result.err
    )
    found = json.loads(run("verify", checkpoint, calibration, "--json").out)
    assert found["related"] is False and len(found["problems"]) > 25


def test_verify_shows_some_of_many_problems_and_calls_nothing_identical_then(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    tensors = {name: tensor + 1 for name, tensor in load_file(checkpoint).items()}
    save_file(tensors, tmp_path / "moved.safetensors")
    result = run("verify", checkpoint, tmp_path / "moved.safetensors")
    assert result.status == 1 and "identical" not in result.out and "26 problems:" in result.out
    lines = result.err.splitlines()
    assert len(lines) == 11 and lines[-1] == "… and 16 more; --json lists all of them."


def test_warnings_of_one_kind_are_told_in_one_line(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.json"
    few.write_text(json.dumps({"blocks.1.attn.qkv": 2.0}))
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--device", "cpu", "--calibration", few)
    assert result.status == 0
    warnings = [line for line in result.err.splitlines() if line.startswith("Warning: ")]
    assert any("17 layers, first model.diffusion_model.blocks.1.attn.proj: never seen" in line for line in warnings)
    assert len(warnings) == 2


def test_warnings_are_told_but_not_all(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.json"
    strangers = {f"elsewhere.{index}": 1.0 for index in range(convert_verb.WARNINGS_SHOWN + 2)}
    mixed.write_text(json.dumps({f"blocks.{index}.attn.qkv": 2.0 for index in range(8)} | strangers))
    result = run("convert", checkpoint, tmp_path / "out.safetensors", "--device", "cpu", "--calibration", mixed)
    assert result.status == 0, result.err
    warnings = [line for line in result.err.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == convert_verb.WARNINGS_SHOWN and "more warnings in the report" in result.err


def test_a_report_is_not_written_over_something_else(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text("my recipe")
    words = ("convert", checkpoint, tmp_path / "out.safetensors", "--device", "cpu", "--report")
    result = run(*words, mine)
    assert result.status == 1 and "exists already" in result.err
    assert mine.read_text() == "my recipe" and not (tmp_path / "out.safetensors").exists()
    folder = tmp_path / "reports"
    folder.mkdir()
    assert run(*words, folder).status == 0
    assert {"out.report.json", "out.report.md"} <= {path.name for path in folder.iterdir()}
