"""What a plan predicts: measured errors where there are some, typical ones elsewhere, and speed from kernel tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.calibration import BINS, SCHEDULE_BINS, Calibration, LayerStatistics
from nvfp4_studio.converters import LayerDecision, Options, Plan, make_plan, open_source
from nvfp4_studio.converters.kernels import DEFAULT_TABLE, available_tables
from nvfp4_studio.converters.recipe_file import parse_recipe
from nvfp4_studio.converters.sensitivity import Choice, LayerSensitivity, Outcome, Sensitivity
from nvfp4_studio.converters.typical import typical_sqnr_db
from nvfp4_studio.nodes.studio.prediction import expected, total
from nvfp4_studio.nodes.studio.speed import (
    OF_TEXT,
    ONCE,
    ROWS,
    measured_speed,
    predicted_speed,
    rows_of,
    table_for,
)

NAMES = ("attn.q", "mlp.up", "adaLN_modulation.1")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    weights = {f"blocks.{i}.{name}.weight": torch.ones(256, 256).bfloat16() for i in range(3) for name in NAMES}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def planned(checkpoint: Path, policy: str, rounding: str = "nearest") -> Plan:
    rules = [{"policy": policy, "match": ["attn", "mlp"]}]
    recipe = parse_recipe("test", {"block_names": "repeated", "rules": rules})
    with open_source(checkpoint) as source:
        return make_plan(source, Options(recipe, rounding))


def layer_of(plan: Plan, name: str) -> LayerDecision:
    return next(layer for layer in plan.layers if layer.module.endswith(name))


def measured(*outcomes: Outcome) -> LayerSensitivity:
    return LayerSensitivity("q", "q", "q", "", (256, 256), 64, 2.0, 1.0, outcomes, influence=0.5)


@pytest.mark.parametrize("policy", ["nvfp4", "mxfp8", "int8_convrot", "int8_tensorwise", "convrot_w4a4"])
def test_the_measured_outcome_of_the_same_choice_counts(checkpoint: Path, policy: str) -> None:
    layer = layer_of(planned(checkpoint, policy), "attn.q")
    choice = Choice(policy, "nearest" if policy == "nvfp4" else "")
    found = expected(layer, measured(Outcome(Choice("float8_e4m3fn"), 1, 1.0, 1.0), Outcome(choice, 1, 0.02, 1.0)))
    assert found.measured and found.sqnr_db == pytest.approx(20.0) and found.share == pytest.approx(0.005)


def test_what_was_not_measured_is_typical_and_says_so(checkpoint: Path) -> None:
    layer = layer_of(planned(checkpoint, "nvfp4", "four-over-six"), "attn.q")
    for sensitivity in (None, measured(Outcome(Choice("nvfp4", "nearest"), 1, 0.02, 1.0))):
        found = expected(layer, sensitivity)
        assert not found.measured and found.sqnr_db == pytest.approx(typical_sqnr_db("nvfp4", "four-over-six"))


def test_layers_that_stay_have_no_error_and_no_share_in_the_mean(checkpoint: Path) -> None:
    plan = planned(checkpoint, "nvfp4")
    found = [expected(layer, None) for layer in plan.layers]
    kept = expected(layer_of(plan, "modulation.1"), None)
    assert kept.sqnr_db is None and kept.share == 0
    assert total(found, None)["sqnr_db"] == pytest.approx(typical_sqnr_db("nvfp4", "nearest"))
    assert total([kept], None)["sqnr_db"] is None
    said = total(found, 31.5)
    assert (said["sqnr_db"], said["of"], said["is"]) == (31.5, "output", "predicted error of the model's output")


def test_whose_sqnr_it_is_is_told(checkpoint: Path) -> None:
    layer = layer_of(planned(checkpoint, "nvfp4", "nearest"), "attn.q")
    seen = expected(layer, measured(Outcome(Choice("nvfp4", "nearest"), 1, 0.02, 1.0)))
    assert total([seen], None)["of"] == "layers"
    assert total([seen, expected(layer, None)], None)["of"] == "weights", (
        "one typical error makes the mean no measured one"
    )


def test_wide_layers_in_a_faster_format_are_faster(checkpoint: Path) -> None:
    table = available_tables()[DEFAULT_TABLE]
    speeds = []
    for policy in ("nvfp4", "mxfp8"):
        plan = planned(checkpoint, policy)
        wide = replace(plan, layers=tuple(replace(layer, shape=(8192, 8192)) for layer in plan.layers))
        speeds.append(predicted_speed(wide, None, table)["predicted"])
    assert speeds[0] > speeds[1] > 0


def test_without_tensor_cores_for_nvfp4_a_model_is_slower_than_in_fp8(checkpoint: Path) -> None:
    plan = planned(checkpoint, "nvfp4")
    wide = replace(plan, layers=tuple(replace(layer, shape=(8192, 8192)) for layer in plan.layers if layer.rounding))
    assert 0.55 < predicted_speed(wide, None, available_tables()["rtx-4090"])["predicted"] < 0.65


def test_rows_are_those_that_were_seen_or_guessed_from_the_name(checkpoint: Path) -> None:
    plan = planned(checkpoint, "nvfp4")
    assert rows_of(layer_of(plan, "attn.q"), None) == ROWS and rows_of(layer_of(plan, "modulation.1"), None) == 1


def calibrated(plan: Plan, rows: int) -> Calibration:
    """A calibration in which each layer was called twice with as many rows."""
    once = torch.zeros(BINS, dtype=torch.int64)
    layers = {
        layer.module: LayerStatistics(256, 256, 2, 2 * rows, 16, 0, 1.0, once, once, once, torch.zeros(2, 16))
        for layer in plan.layers
    }
    return Calibration(layers, {}, 1, 1, 2, torch.zeros((2, SCHEDULE_BINS), dtype=torch.int64))


def test_a_calibration_of_small_images_does_not_change_the_speed_and_one_of_large_images_does(checkpoint: Path) -> None:
    plan, table = planned(checkpoint, "nvfp4"), available_tables()[DEFAULT_TABLE]
    assumed = predicted_speed(plan, None, table)
    assert (assumed["basis"], assumed["rows"]) == ("image", ROWS)
    assert predicted_speed(plan, calibrated(plan, ROWS // 64), table) == assumed
    seen = predicted_speed(plan, calibrated(plan, 4 * ROWS), table)
    assert (seen["basis"], seen["rows"]) == ("calibrated", 4 * ROWS) and seen["predicted"] != assumed["predicted"]


@pytest.mark.parametrize(("rows", "basis"), [(8192.0, "calibrated"), (64.0, "few"), (0.0, "unknown")])
def test_a_measured_speed_tells_the_rows_that_it_was_measured_for(rows: float, basis: str) -> None:
    layers = tuple(replace(measured(), input_rows=seen) for seen in (0.0, rows))
    sensitivity = Sensitivity("s", "0", "flux", "c", "p99.9", "equal", DEFAULT_TABLE, 0, 0.0, layers)
    assert measured_speed(sensitivity, 1.25) == {"predicted": 1.25, "basis": basis, "rows": rows, "image_rows": ROWS}


def test_the_table_is_the_wanted_one_else_this_machines_else_the_default() -> None:
    tables = available_tables()
    other = next(name for name in tables if name != DEFAULT_TABLE)
    assert table_for(other, "").name == other
    assert table_for(None, f"NVIDIA {tables[other].gpu}").name == other
    assert table_for("absent", "some GPU").name == DEFAULT_TABLE


@pytest.mark.parametrize(
    ("module", "of_text", "once"),
    [
        ("transformer_blocks.3.attn.to_q", False, False),
        ("transformer_blocks.3.attn.add_q_proj", True, False),
        ("transformer_blocks.3.attn.to_add_out", True, False),
        ("transformer_blocks.3.txt_mlp.net.0.proj", True, False),
        ("transformer_blocks.3.txt_mod.1", True, True),
        ("double_blocks.0.img_attn.qkv", False, False),
        ("double_blocks.0.txt_attn.proj", True, False),
        ("joint_blocks.7.context_block.mlp.fc1", True, False),
        ("joint_blocks.7.x_block.mlp.fc1", False, False),
        ("blocks.9.cross_attn.k", True, False),
        ("blocks.9.cross_attn.q", False, False),
        ("blocks.9.self_attn.k", False, False),
        ("transformer_blocks.2.attn2.to_v", True, False),
        ("cap_embedder.1", True, False),
    ],
)
def test_layers_of_the_prompt_are_known_by_their_names(module: str, of_text: bool, once: bool) -> None:
    assert (OF_TEXT.search(module) is not None, ONCE.search(module) is not None) == (of_text, once)
