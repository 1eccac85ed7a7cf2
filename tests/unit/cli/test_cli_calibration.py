from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.calibration import FORMS, load, save
from nvfp4_studio.cli import calibration as calibration_verb
from nvfp4_studio.converters.sensitivity import Probes, keep_beside, load_influence

Run = Callable[..., Any]


def test_show_in_words(run: Run, calibration: Path) -> None:
    result = run("calibration", "show", calibration)
    assert result.status == 0
    assert result.out.startswith("2 images, 1 step, 24 layers, largest amax ")
    assert "24 of 25 observed" in result.out
    assert "Noise schedule: 6% seen, nothing at noise levels 0.00-0.94" in result.out
    table = next(line for line in result.out.splitlines() if line.startswith("never ran"))
    assert table.split() == ["never", "ran", "1", "final"]
    assert "Add low-noise steps" in result.out and "blocks.N.attn.qkv" in result.out


def test_show_as_json_and_as_picture(run: Run, calibration: Path, tmp_path: Path) -> None:
    found = json.loads(run("calibration", "show", calibration, "--json", "--plot", tmp_path / "p.png").out)
    assert found["coverage"]["observed"] == 24 and found["steps"] == 1
    assert found["layers"]["blocks.0.attn.qkv"]["elements"] == 1024
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_show_as_a_page(run: Run, calibration: Path, tmp_path: Path) -> None:
    page, plot = tmp_path / "page.md", tmp_path / "page plot.png"
    assert run("calibration", "show", calibration, "--markdown", page, "--plot", plot).status == 0
    text = page.read_text("utf-8")
    assert text.startswith("# Calibration calibration\n") and "(page%20plot.png)" in text
    assert "| blocks.N.attn.qkv | 8 |" in text and "| elements-p99.99 | 24 of 24 |" in text


@pytest.mark.parametrize("option", ["--plot", "--markdown"])
def test_a_report_is_not_written_over_a_calibration(run: Run, calibration: Path, option: str) -> None:
    before = calibration.read_bytes()
    result = run("calibration", "show", calibration, option, calibration)
    assert result.status == 1 and "must end in ." in result.err
    assert calibration.read_bytes() == before


def test_compare_says_how_much_larger_the_second_is(run: Run, calibration: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.json"
    merged.write_text(json.dumps({name: 20 * layer.amax for name, layer in load(calibration).layers.items()}))
    result = run("calibration", "compare", calibration, merged, "--plot", tmp_path / "p.png")
    assert result.status == 0
    assert result.out.startswith("merged against calibration: inputs are in the median 20 times larger (24 layers")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(run("calibration", "compare", merged, calibration, "--json").out)
    assert found["ratio"] == pytest.approx(0.05) and len(found["layers"]) == 24
    assert found["layers"]["blocks.0.attn.qkv"]["harm_db"] == 0


def test_compare_refuses_another_model(run: Run, calibration: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"somewhere.else": 1.0}))
    result = run("calibration", "compare", calibration, other)
    assert result.status == 1 and "are of different models: of 24 and 1 layers 0 have" in result.err


def test_merge_adds_up_in_any_order(run: Run, calibration: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.safetensors"
    save(load(calibration).merged(load(calibration)), second)
    assert run("calibration", "merge", calibration, second, "--out", tmp_path / "ab.safetensors").status == 0
    assert run("calibration", "merge", second, calibration, "--out", tmp_path / "ba.safetensors").status == 0
    assert load(tmp_path / "ab.safetensors").samplings == 3
    assert load(tmp_path / "ab.safetensors").same_as(load(tmp_path / "ba.safetensors"))


def test_merge_adds_up_the_influence_beside_calibrations(run: Run, calibration: Path, tmp_path: Path) -> None:
    second, third = tmp_path / "second.safetensors", tmp_path / "third.safetensors"
    for path in (second, third):
        save(load(calibration), path)
    keep_beside({"blocks.0.attn.qkv": Probes.of(0.1)}, calibration)
    keep_beside({"blocks.0.attn.qkv": Probes.of(0.3), "blocks.1.mlp.0": Probes.of(0.5, 2)}, second)
    for name, files in {"ab": (calibration, second, third), "ba": (third, second, calibration)}.items():
        result = run("calibration", "merge", *files, "--out", tmp_path / f"{name}.safetensors")
        assert result.status == 0
        assert f"{name}.influence.json: influence of 2 of 24 layers, 2 probes each" in result.out
    assert (tmp_path / "ab.influence.json").read_bytes() == (tmp_path / "ba.influence.json").read_bytes()
    found = load_influence(tmp_path / "ab.influence.json")
    assert found == pytest.approx({"blocks.0.attn.qkv": 0.2, "blocks.1.mlp.0": 0.5})
    (tmp_path / "ab.safetensors").unlink()
    refused = run("calibration", "merge", third, third, "--out", tmp_path / "ab.safetensors")
    assert refused.status == 1 and "ab.influence.json exists already" in refused.err
    assert run("calibration", "merge", third, third, "--out", tmp_path / "ab.safetensors", "--overwrite").status == 0
    assert not (tmp_path / "ab.influence.json").exists(), "the influence of an older file is none of this one"


def test_merge_may_write_over_one_of_its_sources_when_asked(run: Run, calibration: Path) -> None:
    refused = run("calibration", "merge", calibration, calibration, "--out", calibration)
    assert refused.status == 1 and "add --overwrite" in refused.err
    assert load(calibration).samplings == 1
    assert run("calibration", "merge", calibration, calibration, "--out", calibration, "--overwrite").status == 0
    assert load(calibration).samplings == 2


@pytest.mark.parametrize("form", FORMS)
def test_export_and_import(run: Run, calibration: Path, tmp_path: Path, form: str) -> None:
    exported, back = tmp_path / "c.json", tmp_path / "back.safetensors"
    assert run("calibration", "export", calibration, exported, "--form", form).status == 0
    assert ("layers" in json.loads(exported.read_text())) == (form == "detailed")
    assert run("calibration", "import", exported, back).status == 0
    assert {name: layer.amax for name, layer in load(back).layers.items()} == {
        name: layer.amax for name, layer in load(calibration).layers.items()
    }
    assert run("calibration", "export", calibration, exported).status == 1
    assert run("calibration", "import", exported, back).status == 1
    assert run("calibration", "show", exported).out.startswith("0 images, 0 steps, 24 layers")


def test_the_forms_offered_are_the_cores() -> None:
    assert calibration_verb.FORMS == FORMS


@pytest.mark.parametrize("action", ["show", "export", "import", "merge"])
def test_what_is_no_calibration_is_a_sentence(run: Run, checkpoint: Path, tmp_path: Path, action: str) -> None:
    target = tmp_path / "out.file"
    words = {"show": (), "merge": ("--out", target)}.get(action, (target,))
    result = run("calibration", action, checkpoint, *words)
    assert result.status == 1
    assert str(checkpoint) in result.err and len(result.err.splitlines()) == 1
    assert not target.exists()
