from __future__ import annotations

import dataclasses

import pytest
import torch

from nvfp4_studio.calibration import (
    POLICIES,
    CalibrationError,
    LayerStatistics,
    activation_range,
    input_scale,
    observe,
)
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver


def statistics_of(*inputs: torch.Tensor) -> LayerStatistics:
    observer = LayerObserver(torch.device("cpu"))
    for values in inputs:
        seen = observe(values)
        assert seen is not None
        observer.observe(seen, torch.arange(16) == 15)
    return observer.finish(inputs[0].shape[-1], 8)


@pytest.fixture(scope="module")
def normal() -> LayerStatistics:
    generator = torch.Generator().manual_seed(0)
    return statistics_of(*(torch.randn(8192, 256, generator=generator) for _ in range(24)))


def test_every_policy_explains_itself_in_one_sentence() -> None:
    assert list(POLICIES) == ["p99.9", "max", "elements-p99.9", "elements-p99.99", "dynamic"]
    assert "the tensor scale sets range, not resolution" in POLICIES["p99.9"]
    for text in POLICIES.values():
        assert text.endswith(".") and len(text) < 240


def test_the_default_is_twice_the_largest_call_below_1000_calls(normal: LayerStatistics) -> None:
    found = activation_range(normal)
    assert found.amax == 2 * normal.amax
    assert (found.clip_rate, found.guarded, found.note) == (0.0, False, "")


def test_above_1000_calls_a_single_larger_one_no_longer_counts() -> None:
    generator = torch.Generator().manual_seed(1)
    calls = [torch.rand(1, 16, generator=generator).clamp(min=0.5) for _ in range(2000)]
    calls[77] = torch.full((1, 16), 50.0)
    found = activation_range(statistics_of(*calls))
    assert found.amax is not None and 2.0 <= found.amax <= 2.25
    assert found.clip_rate == pytest.approx(1 / 2000)
    assert not found.guarded


def test_a_freak_value_is_left_out_with_a_note(normal: LayerStatistics) -> None:
    freak = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))
    freak[0, 100] = 1e6
    found = activation_range(normal.merged(statistics_of(freak)))
    assert found.guarded and found.amax is not None
    assert 2 * normal.amax < found.amax < 28672 * 3 / 2
    assert "1e+06" in found.note and "FP8 or a dynamic scale" in found.note
    assert 0 < found.clip_rate < 1e-4


def test_a_wide_but_honest_range_is_not_guarded(normal: LayerStatistics) -> None:
    outlier = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    outlier[3, 100] = 1000.0
    found = activation_range(normal.merged(statistics_of(outlier)))
    assert found.amax == 2000.0 and not found.guarded


def test_many_large_blocks_are_no_freak() -> None:
    """p99.99 of the block amax counts when more than one block in 10 000 is large."""
    values = torch.full((1000, 16), 1e-3)
    values[:10] = 1e5
    found = activation_range(statistics_of(values))
    assert not found.guarded and found.amax == 1e5 and found.clip_rate == 0.0
    assert "the smallest lose resolution" in found.note


def test_max_and_dynamic(normal: LayerStatistics) -> None:
    assert activation_range(normal, "max").amax == normal.amax
    assert activation_range(normal, "max").clip_rate == 0.0
    dynamic = activation_range(normal, "dynamic")
    assert (dynamic.amax, dynamic.clip_rate, dynamic.guarded) == (None, 0.0, False)


@pytest.mark.parametrize(("policy", "share"), [("elements-p99.9", 1e-3), ("elements-p99.99", 1e-4)])
def test_element_policies_clip_at_most_the_share_they_name(normal: LayerStatistics, policy: str, share: float) -> None:
    found = activation_range(normal, policy)
    assert found.amax is not None and found.amax < normal.amax
    assert 0 < found.clip_rate <= share


def test_a_layer_that_saw_only_zeros_is_left_dynamic() -> None:
    found = activation_range(statistics_of(torch.zeros(4, 16)), "max")
    assert found.amax is None and "zero" in found.note


def test_nonfinite_inputs_are_told() -> None:
    values = torch.ones(4, 16)
    values[0, 0] = float("nan")
    for policy in ("p99.9", "max"):
        assert "1 NaN or infinite inputs were left out" in activation_range(statistics_of(values), policy).note


def test_what_an_imported_calibration_cannot_tell(normal: LayerStatistics) -> None:
    empty = torch.zeros_like(normal.block_amax)
    imported = dataclasses.replace(normal, block_amax=empty, element_magnitude=empty, elements=0)
    assert activation_range(imported).amax == 2 * normal.amax
    assert "no block statistics" in activation_range(imported).note
    with pytest.raises(CalibrationError, match=r"blocks.3.to_q has no element statistics.*choose p99.9 or max"):
        activation_range(imported, "elements-p99.9", name="blocks.3.to_q")


def test_unknown_policy_and_format(normal: LayerStatistics) -> None:
    with pytest.raises(CalibrationError, match=r"'p50'; choose one of p99.9, max"):
        activation_range(normal, "p50")
    with pytest.raises(CalibrationError, match="'int4' has no input_scale; known are nvfp4"):
        input_scale(1.0, "int4")
    for amax in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(CalibrationError, match="positive, finite amax"):
            input_scale(amax, "nvfp4")


def test_input_scale_is_amax_over_the_largest_value_of_the_format() -> None:
    assert input_scale(2688.0, "nvfp4") == 1.0
    assert input_scale(448.0, "float8_e4m3fn") == 1.0
    assert input_scale(57344.0, "float8_e5m2") == 1.0
    assert torch.finfo(torch.float8_e4m3fn).max == 448 and torch.finfo(torch.float8_e5m2).max == 57344
