"""The report beside a converted file: whatever lies there, an ordinary Run shows a text or none; what it was made of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Options
from nvfp4_studio.nodes.earlier import inputs_of, is_current, report_of, stamp_of, text_of

SUMMARY = {"source_bytes": 10, "output_bytes": 5, "ratio": 0.5, "nvfp4_layers": 1, "fp8_layers": 0, "formats": {}}


def beside(folder: Path, data: Any) -> Path:
    (folder / "x.report.json").write_text(json.dumps(data))
    return folder / "x.safetensors"


def test_a_report_is_told(tmp_path: Path) -> None:
    told = text_of(beside(tmp_path, {"summary": SUMMARY, "plan": {"warnings": []}}))
    assert told is not None and "50% of the source" in told


@pytest.mark.parametrize(
    "change",
    [
        {"source_bytes": 10**400},
        {"source_bytes": "ten"},
        {"formats": [1]},
        {"mean_sqnr_db": 3.0, "worst_sqnr_db": 2.0, "worst_layer": 7},
        {"mean_sqnr_db": {}},
    ],
)
def test_damaged_values_are_no_report(tmp_path: Path, change: dict[str, Any]) -> None:
    assert text_of(beside(tmp_path, {"summary": {**SUMMARY, **change}, "plan": {"warnings": []}})) is None


def test_neither_links_nor_pipes_are_read(tmp_path: Path) -> None:
    output = beside(tmp_path, {"summary": SUMMARY})
    report = tmp_path / "x.report.json"
    report.rename(tmp_path / "far.json")
    report.symlink_to(tmp_path / "far.json")
    assert report_of(output) is None
    report.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(report)
        assert report_of(output) is None


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One of two checkpoints of the same name and size, as a diffusers repository calls them; the other is newer."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        save_file({"weight": torch.full((2, 2), float(ord(folder)))}, tmp_path / folder / "model.safetensors")
    os.utime(tmp_path / "a" / "model.safetensors", ns=(0, 0))
    return tmp_path / "a" / "model.safetensors"


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    """What stands for a conversion of the source with default options and a calibration, with its report."""
    output = tmp_path / "x.safetensors"
    output.write_bytes(b"converted")
    (tmp_path / "calibration.safetensors").write_bytes(b"statistics")
    stamp = stamp_of(inputs_of(source, tmp_path / "calibration.safetensors"), output)
    return beside(tmp_path, {"plan": {"options": Options().to_json(), "source": source.name}, "stamp": stamp})


def test_the_same_files_and_options_are_not_converted_twice(converted: Path, source: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "calibration.safetensors"
    assert is_current(converted, inputs_of(source, calibration), Options())
    assert not is_current(converted, inputs_of(source, calibration), Options(rounding="nearest"))
    assert not is_current(converted, inputs_of(source, None), Options())
    calibration.write_bytes(b"statistic!")
    os.utime(calibration, ns=(0, 0))
    assert not is_current(converted, inputs_of(source, calibration), Options())


def test_another_source_of_the_same_name_is_another_one(converted: Path, source: Path, tmp_path: Path) -> None:
    calibration, other = tmp_path / "calibration.safetensors", tmp_path / "b" / source.name
    assert not is_current(converted, inputs_of(other, calibration), Options())
    os.utime(other, ns=(10**9, 10**9))
    os.replace(other, source)  # unpacked or copied with its own, older time
    assert not is_current(converted, inputs_of(source, calibration), Options())


@pytest.mark.parametrize("change", [{"stamp": None}, {"stamp": 7}, {"plan": None}, {"plan": {"options": []}}])
def test_a_report_that_does_not_say_is_not_believed(converted: Path, source: Path, change: dict[str, Any]) -> None:
    beside(converted.parent, {**json.loads((converted.parent / "x.report.json").read_text()), **change})
    assert not is_current(converted, inputs_of(source, converted.parent / "calibration.safetensors"), Options())


def test_a_file_that_was_written_after_its_report_is_not_current(converted: Path, source: Path, tmp_path: Path) -> None:
    os.utime(converted, ns=(0, 0))
    assert not is_current(converted, inputs_of(source, tmp_path / "calibration.safetensors"), Options())
