"""What a calibration's report says, as data and as a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvfp4_studio.calibration import (
    POLICIES,
    Calibration,
    CalibrationReport,
    Prompts,
    calibration_report,
    import_json,
    markdown,
    observe,
    report_sections,
)
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver

BLOCKS = 6


def calibration_of(outlier: float = 40.0, seen: tuple[int, ...] = (9, 15)) -> Calibration:
    """Two types of layers in six blocks and one layer outside; block 4's second layer is an outlier."""
    generator = torch.Generator().manual_seed(0)
    names = [f"blocks.{block}.mlp.{layer}" for block in range(BLOCKS) for layer in (0, 2)] + ["img_in"]
    layers = {}
    for name in names:
        observer = LayerObserver(torch.device("cpu"))
        for place in seen:
            values = torch.randn(64, 32, generator=generator) * (1 + (place == 9))
            if name == "blocks.4.mlp.2":
                values[0, 5] = 2 * outlier
            measured = observe(values)
            assert measured is not None
            observer.observe(measured, torch.arange(16) == place)
        layers[name] = observer.finish(32, 8)
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, list(seen)] = 2
    return Calibration(layers, {"blocks.5.mlp.4": "never ran"}, samplings=2, images=2, steps=4, schedule=schedule)


@pytest.fixture(scope="module")
def report() -> CalibrationReport:
    return calibration_report(calibration_of(), "mine")


def test_layers_are_grouped_by_type(report: CalibrationReport) -> None:
    kinds = {kind.kind: kind for kind in report.kinds}
    assert set(kinds) == {"blocks.N.mlp.0", "blocks.N.mlp.2", "img_in"}
    first, second = kinds["blocks.N.mlp.0"], kinds["blocks.N.mlp.2"]
    amax = sorted(layer.amax for layer in report.layers if layer.kind == first.kind)
    assert len(first.layers) == BLOCKS
    assert (first.smallest, first.median, first.largest) == (amax[0], (amax[2] + amax[3]) / 2, amax[-1])
    assert first.spread == amax[-1] / amax[0] and first.ranges == (2 * amax[0], 2 * amax[-1])
    assert second.largest_in == "blocks.4.mlp.2"
    assert second.clip_rates["p99.9"] == 0 and second.clip_rates["dynamic"] == 0
    assert first.sqnr_db == pytest.approx(20.4, abs=0.5)


def test_outliers_stand_far_above_their_type(report: CalibrationReport) -> None:
    assert [layer.name for layer in report.outliers()] == ["blocks.4.mlp.2"]
    assert report.largest()[0].name == "blocks.4.mlp.2"
    assert calibration_report(calibration_of(outlier=1.0)).outliers() == []


def test_where_in_the_schedule_the_layers_peak(report: CalibrationReport) -> None:
    assert {layer.peak for layer in report.layers if layer.name != "blocks.4.mlp.2"} == {("conditional", 9)}
    profile = report.kinds[0].profile
    assert profile[9] == 1 and profile[15] == pytest.approx(0.5, abs=0.15) and profile[0] is None


def test_a_layer_that_missed_a_noise_level_is_told() -> None:
    whole, part = calibration_of(), calibration_of(seen=(15,))
    mixed = replace(whole, layers={**whole.layers, "img_in": part.layers["img_in"]})
    report = calibration_report(mixed)
    assert [(layer.name, layer.unseen) for layer in report.partly_seen()] == [("img_in", (9,))]


def test_the_advice_is_that_of_coverage_and_convergence(report: CalibrationReport) -> None:
    advice = report.advice()
    assert any("Add low-noise steps" in line for line in advice)
    assert any("The unconditional pass was never seen" in line for line in advice)
    assert any("More images are needed to tell whether they are enough" in line for line in advice)


def test_the_number_of_prompts_stands_beside_that_of_the_samplings() -> None:
    def told(prompts: Prompts) -> tuple[str, object]:
        report = calibration_report(replace(calibration_of(), samplings=70, prompts=prompts))
        return report_sections(report)[0].lines[1], report.to_json()["prompts"]

    many = tuple(range(64))
    assert told(Prompts()) == ("Layers: 13 of 14 observed; samplings: 70.", None)
    assert told(Prompts((5,), 70)) == (
        "Layers: 13 of 14 observed; samplings: 70; prompts: 1.",
        {"count": 1, "at_least": False},
    )
    assert told(Prompts((5,), 69))[0].endswith("; prompts: at least 1.")
    assert told(Prompts(many, 70)) == (
        "Layers: 13 of 14 observed; samplings: 70; prompts: at least 64.",
        {"count": 64, "at_least": True},
    )


def test_a_freak_value_is_among_the_advice() -> None:
    advice = calibration_report(calibration_of(outlier=1e8)).advice()
    assert any(line.startswith("blocks.4.mlp.2: ") and "FP8 or a dynamic scale" in line for line in advice)


def test_the_json_is_complete_and_strict(report: CalibrationReport) -> None:
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(found["layers"]) == [layer.name for layer in report.layers]
    layer = found["layers"]["blocks.4.mlp.2"]
    assert set(layer["policies"]) == set(POLICIES) and layer["peak"][0] == "conditional"
    assert found["coverage"] == {
        "observed": 13,
        "total": 14,
        "schedule_seen": 0.125,
        "missing_noise_levels": "0.00-0.56, 0.62-0.94",
        "missing_bins": [*range(9), *range(10, 15)],
        "partly_seen": [],
    }
    assert found["outliers"] == ["blocks.4.mlp.2"] and found["unobserved"] == {"blocks.5.mlp.4": "never ran"}


def test_the_page_has_a_table_for_each_question(report: CalibrationReport) -> None:
    page = markdown("Calibration mine", report_sections(report))
    assert page.startswith("# Calibration mine\n")
    for line in (
        "| blocks.N.mlp.2 | 6 |",
        "| p99.9 (default) | 13 of 13 |",
        "| 0.56-0.62 | 2 | 0 | 13 of 13 |",
        "| 0.50-0.56 | 0 | 0 | 0 of 13 | 0 |",
        "| never ran | 1 | blocks.5.mlp.4 |",
    ):
        assert line in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 6
    assert all(len({row.count("|") for row in table}) == 1 for table in tables)


@pytest.mark.parametrize("empty", [Calibration(), Calibration(unobserved={"a": "never ran"})])
def test_an_empty_calibration_has_a_report(empty: Calibration) -> None:
    report = calibration_report(empty)
    assert report.layers == () and report.outliers() == []
    assert "0 images" in markdown("x", report_sections(report))


def test_imported_statistics_have_a_report_without_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({f"blocks.{block}.a": 1.0 + block for block in range(4)}))
    report = calibration_report(import_json(path))
    (kind,) = report.kinds
    assert (kind.median, kind.sqnr_db, kind.clip_rates["elements-p99.9"]) == (2.5, None, None)
    page = markdown("x", report_sections(report))
    assert "| elements-p99.9 | 0 of 4 |" in page and "Coverage by noise level" not in page


def test_the_order_of_merging_does_not_change_the_report(
    sampled: Callable[[list[tuple[int, float]]], Calibration],
) -> None:
    first, second = sampled([(1, 0.9), (2, 0.4)]), sampled([(3, 0.7)])
    one, other = (calibration_report(each) for each in (first.merged(second), second.merged(first)))
    assert one.to_json() == other.to_json()
