"""Calibration inside a real ComfyUI: nothing changes, nothing stays behind, everything is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LAYERS = 21


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("calibrating")
    result = run_in_comfy("calibrating", work=str(work))
    return {**result, "work": str(work)}


def test_samples_are_equal_bit_for_bit(found: dict[str, Any]) -> None:
    assert found["moved"] and found["equal"]


def test_no_hook_remains_however_the_sampling_ends(found: dict[str, Any]) -> None:
    assert found["hooks"] == dict.fromkeys(
        ("normal", "error", "interrupt", "unsavable", "mismatch", "compiled", "dual"), 0
    )
    assert found["wrappers_left"] == {}
    assert found["leftovers"] == []


def test_every_linear_is_observed_at_every_call(found: dict[str, Any]) -> None:
    first = found["first"]
    assert len(first["layers"]) == LAYERS and first["unobserved"] == {}
    assert (first["samplings"], first["images"], first["steps"]) == (1, 2, 4)
    assert set(first["calls"].values()) == {4}


def test_the_schedule_is_recorded_from_noise_to_clean(found: dict[str, Any]) -> None:
    for schedule in found["first"]["schedule"]:  # both passes, in one batch
        assert sum(schedule) == 4 and schedule[15] == 1 and max(schedule) == 1


def test_samplings_accumulate_inside_and_outside_of_inference_mode(found: dict[str, Any]) -> None:
    counts = [(found[key]["samplings"], found[key]["images"], found[key]["steps"]) for key in ("second", "third")]
    assert counts == [(2, 3, 8), (3, 4, 12)]
    assert set(found["third"]["calls"].values()) == {12}


@pytest.mark.parametrize("kind", ["error", "interrupt"])
def test_an_error_or_an_interrupt_keeps_its_type_and_the_steps_so_far(found: dict[str, Any], kind: str) -> None:
    assert found[kind] in ('RuntimeError("a sampler\'s own error")', "InterruptProcessingException")
    facts = found[f"{kind}_facts"]
    assert (facts["samplings"], facts["images"], facts["steps"]) == (1, 0, 2)


def test_a_calibration_that_cannot_be_read_is_a_clear_error(found: dict[str, Any]) -> None:
    assert "unsavable" in found["unsavable"] and "\n" not in found["unsavable"]


def test_restart_begins_anew_once_per_prompt(found: dict[str, Any]) -> None:
    assert found["restarted"] == [1, 2, 1]


def test_two_models_and_two_nodes_do_not_mix(found: dict[str, Any]) -> None:
    assert (found["mine"]["samplings"], found["theirs"]["samplings"]) == (2, 1)
    assert found["outer"] == found["inner"] and found["outer"]["steps"] == 4


def test_a_guiders_second_model_is_not_observed(found: dict[str, Any]) -> None:
    assert (found["dual"]["samplings"], found["dual"]["steps"]) == (1, 4)
    assert set(found["dual"]["calls"].values()) == {4}


def test_a_calibration_of_another_model_is_refused_by_name(found: dict[str, Any]) -> None:
    assert "of another model: " in found["mismatch"] and "double_blocks.0.img_attn.proj" in found["mismatch"]
    assert "512" in found["mismatch"] or "256" in found["mismatch"]
    assert found["theirs"]["samplings"] == 1


def test_nan_is_reported_with_the_layer_and_left_out(found: dict[str, Any]) -> None:
    assert "double_blocks.0.img_mlp.2" in found["poisoned"]["nonfinite"]
    assert "NaN or infinite inputs, left out: " in found["poisoned_text"]


def test_a_compiled_model_is_calibrated_eagerly(found: dict[str, Any]) -> None:
    assert found["compiled_equal"] and found["compiled_same_statistics"]


def test_the_status_text_tells_what_was_collected(found: dict[str, Any]) -> None:
    assert found["texts"][0].startswith("Collecting: step 1")
    assert found["texts"][-1].startswith("first: 2 images, 4 steps, 21 layers, largest amax ")


@pytest.fixture(scope="module")
def again(found: dict[str, Any], run_in_comfy: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_in_comfy("calibrating_again", work=found["work"])


def test_a_new_process_adds_to_the_same_file(again: dict[str, Any]) -> None:
    assert (again["samplings"], again["steps"]) == (4, 16)
    assert again["layers"] == LAYERS


def test_one_prompt_with_several_seeds_is_poor_coverage(again: dict[str, Any]) -> None:
    advice = again["advice"]
    assert "All 4 samplings had the same prompt: vary it." in advice["one"]
    assert "Only 2 prompts in 8 samplings: vary them." in advice["two"]
    assert not any("same prompt" in sentence for sentence in advice["two"])


def test_prompts_are_told_apart_by_all_their_parts_and_odd_ones_are_unknown(again: dict[str, Any]) -> None:
    assert again["prompts"] == [1, 2, 3, 4]
    assert again["unknown"] is None


@pytest.fixture(scope="module")
def variants(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("calibrating_variants", work=str(tmp_path_factory.mktemp("variants")))


def test_passes_are_told_apart(variants: dict[str, Any]) -> None:
    assert variants["one_pass"] == {"schedule": [4, 0], "steps": 4, "seen": [4, 0]}
    two = variants["two_passes"]
    assert two["schedule"] == [4, 4] and two["seen"] == [4, 4] and two["steps"] in (4, 8)
    assert variants["differ"]


def test_a_lora_is_recorded_and_does_not_change_the_fingerprint(variants: dict[str, Any]) -> None:
    assert variants["lora_moves"] and variants["fingerprint_kept"]
    assert variants["adaptations"] == {"1 weight patched (strength 0.75)": 1, "none": 1}
    assert "1 weight patched (strength 0.75) in 1 of 2 samplings." in variants["lora_text"]


def test_the_same_model_in_another_precision_is_the_same(variants: dict[str, Any]) -> None:
    assert variants["rounded_alike_samplings"] == 3


def test_another_checkpoint_of_the_same_shapes_is_refused(variants: dict[str, Any]) -> None:
    assert "has other weights than when it was calibrated" in variants["other_checkpoint"]
    assert variants["samplings_after"] == 3


def test_every_level_of_detail_leaves_the_images_alone(variants: dict[str, Any]) -> None:
    assert variants["channels_equal"] and variants["curvature_equal"] and variants["hooks"] == 0
    assert variants["channels"] == {"samplings": 2, "channels": True, "curvature": False, "rows": 0}
    assert variants["curvature"] == {"samplings": 2, "channels": True, "curvature": True, "rows": 32}
