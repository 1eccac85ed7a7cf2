"""The report beside a converted file: whatever lies there, an ordinary Run shows a text or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from nvfp4_studio.nodes.earlier import report_of, text_of

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
