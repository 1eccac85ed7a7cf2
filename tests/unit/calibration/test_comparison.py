"""Two calibrations compared: what moved, by how much, and whether scales can be reused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nvfp4_studio.calibration import (
    Calibration,
    CalibrationError,
    compare,
    comparison_sections,
    import_json,
    markdown,
    observe,
)
from nvfp4_studio.calibration.comparison import factor, times
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver

NAMES = [f"blocks.{block}.{layer}" for block in range(5) for layer in ("attn", "mlp")]


def calibration_of(scale: float, width: int = 32, place: int = 15, **factors: float) -> Calibration:
    """Each layer's input is normal, times `scale`, times the factor of its block ("b3")."""
    layers = {}
    for number, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(number)
        observer = LayerObserver(torch.device("cpu"))
        by = scale * factors.get(f"b{name.split('.')[1]}", 1.0)
        measured = observe(torch.randn(64, width, generator=generator) * by)
        assert measured is not None
        observer.observe(measured, torch.arange(16) == place)
        layers[name] = observer.finish(width, 8)
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, place] = 1
    return Calibration(layers, samplings=1, images=1, steps=1, schedule=schedule)


def test_a_merged_lora_is_seen_as_larger_inputs() -> None:
    found = compare(calibration_of(1), calibration_of(20, b3=4), "original", "merged")
    assert found.ratio == pytest.approx(20)
    assert [layer.name for layer in found.movers()[:2]] == ["blocks.3.attn", "blocks.3.mlp"]
    kinds = {kind.kind: kind for kind in found.kinds}
    assert set(kinds) == {"blocks.N.attn", "blocks.N.mlp"}
    assert kinds["blocks.N.mlp"].ratio == pytest.approx(20) and kinds["blocks.N.mlp"].largest_in == "blocks.3.mlp"
    verdict = found.verdict()
    assert verdict[0].startswith("merged against original: inputs are in the median 20 times larger (10 layers in both")
    assert verdict[1].startswith("Most changed: blocks.3.attn, from ") and verdict[1].endswith("80 times larger.")
    assert "Scales from original would harm 10 layers of merged" in verdict[2]


def test_too_small_a_range_harms_and_a_generous_one_does_not() -> None:
    small, large = calibration_of(1), calibration_of(20)
    harmed = compare(small, large).harmed()
    assert len(harmed) == len(NAMES)
    assert harmed[0].clip_rate is not None and harmed[0].clip_rate > 0.5 and harmed[0].harm_db > 15
    reused = compare(large, small)
    assert reused.harmed() == [] and reused.verdict()[-1].endswith("no layer loses 1 dB.")
    assert reused.ratio == pytest.approx(1 / 20)


def test_a_calibration_equals_itself() -> None:
    mine = calibration_of(1)
    found = compare(mine, mine)
    assert {layer.ratio for layer in found.layers} == {1.0}
    assert found.verdict()[0].endswith(
        "about equal (1.00 times) (10 layers in both, 0 of them changed by more than 10%)."
    )


def test_layers_and_noise_levels_of_one_alone_are_told() -> None:
    first, second = calibration_of(1), calibration_of(1, place=3)
    del first.layers["blocks.0.mlp"], second.layers["blocks.4.attn"]
    found = compare(first, second)
    assert (found.only_first, found.only_second) == (("blocks.4.attn",), ("blocks.0.mlp",))
    assert found.unmatched_bins == ((15,), (3,))
    text = " ".join(found.verdict())
    assert "Only in B: 1 layer, first blocks.0.mlp." in text and "Only A has seen 1 of 16 noise levels" in text


def test_other_shapes_are_another_model() -> None:
    with pytest.raises(CalibrationError, match=r"base and other are of different models: .* 0 have the same name"):
        compare(calibration_of(1), calibration_of(1, width=48), "base", "other")
    with pytest.raises(CalibrationError, match="different models"):
        compare(Calibration(), Calibration())


def test_imported_calibrations_can_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({name: 7.5 for name in NAMES}))
    imported = import_json(path)
    found = compare(calibration_of(1), imported)
    assert found.layers[0].sqnr_db is None and found.harmed() == []
    assert not any("Scales" in line for line in found.verdict())


def test_the_json_and_the_page_hold_every_layer_and_type() -> None:
    first = calibration_of(1, b0=0)
    found = compare(first, calibration_of(2))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(data["layers"]) == NAMES and data["layers"]["blocks.0.attn"]["ratio"] is None
    assert data["ratio"] == pytest.approx(2) and data["verdict"] == found.verdict()
    page = markdown("B against A", comparison_sections(found))
    assert "| blocks.N.mlp | 5 |" in page and "| blocks.2.attn |" in page and "inf x" in page


@pytest.mark.parametrize(
    ("ratio", "words", "figures"),
    [
        (20.0, "20 times larger", "20 x"),
        (0.05, "20 times smaller", "1/20 x"),
        (1.05, "about equal (1.05 times)", "1.05 x"),
        (22400.0, "22400 times larger", "22400 x"),
        (float("inf"), "larger, from zero", "inf x"),
        (0.0, "zero now", "0 x"),
    ],
)
def test_ratios_in_words_and_figures(ratio: float, words: str, figures: str) -> None:
    assert (times(ratio), factor(ratio)) == (words, figures)
