"""What a sweep predicts of a plan's layers, and whose unfinished work it goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nvfp4_studio.converters.budget import totals_of_plan
from nvfp4_studio.converters.budget.curve import best_of_formats
from nvfp4_studio.converters.errors import SensitivityError
from nvfp4_studio.converters.plan import LayerDecision, Plan
from nvfp4_studio.converters.sensitivity import (
    KEEP,
    Choice,
    LayerSensitivity,
    Outcome,
    Sensitivity,
    from_json,
    outcomes_of_plan,
)
from nvfp4_studio.converters.sensitivity.page import sensitivity_sections

DECISION = LayerDecision(
    name="a",
    source_name="a",
    module="a",
    component="diffusion_model",
    shape=(16, 16),
    source_format="bfloat16",
    format="nvfp4",
    action="quantize",
    reason="",
    tag={"format": "nvfp4"},
    input_amax=None,
    input_scale=None,
    clip_rate=None,
    repairs=(),
    notes=(),
    bytes_before=512,
    outputs=(),
    rounding="gptq",
)


def measured(*choices: Choice) -> Sensitivity:
    """One layer whose choices are the noisier the later they are told."""
    outcomes = [Outcome(choice, 100, place / 100, 1.0) for place, choice in enumerate((Choice(KEEP), *choices))]
    layer = LayerSensitivity("a", "a", "a", "", (16, 16), 9, 1.0, 1.0, tuple(outcomes))
    return Sensitivity("m", "0", "flux", "c", "p99.9", "uniform", "gpu", 1000, 1.0, (layer,))


def predicted(sensitivity: Sensitivity, *, complete: bool = True, **changed: Any) -> Choice | None:
    plan = cast(Plan, SimpleNamespace(layers=(replace(DECISION, **changed),)))
    outcome = outcomes_of_plan(sensitivity, plan, complete=complete)["a"]
    return outcome.choice if outcome is not None else None


NEAREST, WEIGHTED, GPTQ = (Choice("nvfp4", name) for name in ("nearest", "weighted", "gptq"))


def test_a_method_that_did_worse_than_nearest_counts_as_nearest() -> None:
    assert predicted(measured(WEIGHTED, NEAREST)) == NEAREST
    assert predicted(measured(GPTQ, NEAREST)) == GPTQ


def test_the_rounding_that_is_planned_counts_and_not_the_closest() -> None:
    sensitivity = measured(GPTQ, NEAREST)
    assert predicted(sensitivity, complete=False, rounding="nearest") == NEAREST
    errors = []
    for rounding in ("gptq", "nearest", "block-search"):
        totals = totals_of_plan(
            sensitivity, cast(Plan, SimpleNamespace(layers=(replace(DECISION, rounding=rounding),)))
        )
        errors.append(totals and totals.error)
    assert errors == [0.01, 0.02, None]


def test_a_method_that_lost_is_told_from_one_that_was_not_measured() -> None:
    first = measured(NEAREST)
    assert predicted(first, complete=False) is None
    other = replace(measured(GPTQ).layers[0], name="b", module="b")
    both = replace(first, layers=(*first.layers, other))
    assert predicted(both, complete=False) == NEAREST


@pytest.mark.parametrize("order", [1, -1])
def test_variants_of_one_format_are_told_apart_by_their_tags(order: int) -> None:
    plain, rotated = Choice("int8_tensorwise"), Choice("int8_convrot")
    sensitivity = measured(*(plain, rotated)[::order])
    fields = {"convrot": True, "convrot_groupsize": 256}
    for choice, tag in ((plain, {}), (rotated, fields)):
        told = {"format": "int8_tensorwise", "tag": {"format": "int8_tensorwise", **tag}, "rounding": ""}
        assert predicted(sensitivity, **told) == choice
        plan = cast(Plan, SimpleNamespace(layers=(replace(DECISION, **told),)))
        placed = best_of_formats(sensitivity, plan)
        assert placed is not None and placed["a"].choice == choice


def test_fp8_that_stays_counts_as_it_is_computed() -> None:
    fp8 = Choice("float8_e4m3fn")
    told = {"action": "copy", "format": "float8_e4m3fn", "rounding": ""}
    assert predicted(measured(fp8), **told, tag={"format": "float8_e4m3fn"}) == fp8
    assert predicted(measured(fp8), **told, tag={"full_precision_matrix_mult": True}) == Choice(KEEP)
    assert predicted(measured(fp8), **told, tag=None) == Choice(KEEP)


def test_a_pinned_pre_quant_scale_and_gain_count_where_they_were_measured() -> None:
    scaled = Choice("nvfp4", "gptq", 0.5, True)
    told = {"pre_quant_exponent": 0.5, "gain": True}
    assert predicted(measured(GPTQ, NEAREST, scaled), **told) == scaled
    assert predicted(measured(NEAREST, GPTQ), **told) == GPTQ


@pytest.mark.parametrize(
    ("field", "value"),
    [("pre_quant_exponent", 1.5), ("pre_quant_exponent", 1e300), ("bytes", 1 << 60), ("noise", 1e299)],
)
def test_numbers_of_which_no_plan_can_be_made_are_refused(field: str, value: float, tmp_path: Path) -> None:
    data = json.loads(json.dumps(measured(GPTQ).to_json()))
    data["layers"][0]["signal"] = 1e-10
    assert from_json(data).layers
    data["layers"][0]["outcomes"][1][field] = value
    with pytest.raises(SensitivityError, match="measure it again"):
        from_json(data)


def test_totals_have_a_row_of_each_layers_best() -> None:
    first = measured(NEAREST, GPTQ).layers[0]
    second = replace(first, name="b", module="b", outcomes=measured(GPTQ, NEAREST).layers[0].outcomes)
    section = sensitivity_sections(replace(measured(), layers=(first, second)))[1]
    assert [(row[0], row[1], row[-1]) for row in section.rows] == [
        ("keep", "2", "no error"),
        ("nvfp4/gptq", "2", "15.2 dB"),
        ("nvfp4/nearest", "2", "15.2 dB"),
        ("nvfp4, the best in each layer", "2", "17.0 dB"),
    ]
