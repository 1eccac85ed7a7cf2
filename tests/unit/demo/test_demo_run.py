"""The main job as the command runs it: files, figures, closing lines and exit status."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from nvfp4_studio.calibration import load
from nvfp4_studio.converters import verify
from nvfp4_studio.demo import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run, and what it told."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    told = []
    status = run.run_demo(out, lambda done, total, label: told.append((done, total, label)))
    return out, status, told


def test_run_is_good_and_leaves_exactly_its_files(finished):
    out, status, _ = finished
    assert status == 0
    assert {path.name for path in out.iterdir()} == {
        "contact-sheet.png",
        "calibration.safetensors",
        "quality.json",
        "digits-flux-nvfp4.safetensors",
        "digits-flux-nvfp4.report.json",
        "digits-flux-nvfp4.report.md",
        "digits-flux-nvfp4.report-size.png",
        "digits-flux-nvfp4.report-map.png",
        "digits-flux-nvfp4.report-error.png",
        "digits-flux-nvfp4.report-activations.png",
    }


def test_samples_reach_the_bound_and_the_file_is_smaller(finished):
    quality = json.loads((finished[0] / "quality.json").read_text(encoding="utf-8"))
    assert quality["psnr_quantized_activations_db"] >= 34.0
    assert quality["psnr_weights_only_db"] >= quality["psnr_quantized_activations_db"]
    assert quality["conversion"]["nvfp4_layers"] == 20
    assert quality["conversion"]["ratio"] < 0.8


def test_calibration_saw_every_layer_and_the_whole_schedule(finished):
    calibration = load(finished[0] / "calibration.safetensors")
    coverage = calibration.coverage()
    assert (coverage.observed, coverage.total, coverage.schedule_seen) == (34, 34, 1.0)
    assert calibration.images == 20
    assert calibration.samplings == 2


def test_converted_file_verifies_again(finished):
    assert verify(run.SOURCE, finished[0] / run.CONVERTED_NAME).problems == ()


def test_contact_sheet_is_a_readable_picture(finished):
    with Image.open(finished[0] / "contact-sheet.png") as sheet:
        assert sheet.width > 1000
        assert sheet.height > 600


def test_progress_ends_every_stage(finished):
    told = finished[2]
    assert all(0 <= done <= total for done, total, _ in told)
    assert sum(done == total for done, total, _ in told) >= 4


def test_second_run_replaces_the_first_and_a_missed_bound_is_status_one(finished, monkeypatch, capsys):
    monkeypatch.setattr(run, "GOOD_PSNR_DB", 90.0)
    monkeypatch.setattr(run, "LABELS", [0, 1])
    monkeypatch.setattr(run, "SEEDS", [0, 1])
    assert run.run_demo(finished[0]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Not good")
    assert "90 dB" in lines[-1]
    assert any(str(finished[0]) in line for line in lines)
