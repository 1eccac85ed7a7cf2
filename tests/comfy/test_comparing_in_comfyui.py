"""Two models sampled alike in ComfyUI: equal to its KSampler to the bit, one model loaded at a time, none afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("comparing", work=str(tmp_path_factory.mktemp("comparing")))


@pytest.mark.parametrize(
    ("kind", "shape", "steps"),
    [("image", [3, 16, 8, 8], 5), ("partly", [3, 16, 8, 8], 4), ("video", [2, 16, 3, 8, 8], 3)],
)
def test_samples_are_ksamplers_and_each_step_is_measured(
    found: dict[str, Any], kind: str, shape: list[int], steps: int
) -> None:
    result = found[kind]
    assert result["identical"] == [True, True]
    assert result["shape"] == shape and len(result["errors"]) == steps
    for errors, expected in zip(result["errors"], result["expected"], strict=True):
        assert errors == pytest.approx(expected, rel=1e-9) and min(errors) > 0
    assert result["told"] == [[which, step, steps] for which in (0, 1) for step in range(1, steps + 1)]
    assert result["kept"] == ["torch.float32", 1] and result["per_step"] == [True, True]
    levels = [first for first, second in result["levels"] if first == second]
    assert len(levels) == steps and levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("kind", ["image", "partly", "video", "same"])
def test_only_the_model_that_samples_is_loaded(found: dict[str, Any], kind: str) -> None:
    result = found[kind]
    assert result["calls"] > 0 and result["alone"]
    assert result["left"] == 0


def test_a_model_is_equal_to_itself(found: dict[str, Any]) -> None:
    result = found["same"]
    assert result["final"] == [0.0] * 3 and result["errors"] == [[0.0] * 3] * 5


def test_cancel_in_either_model_leaves_nothing_loaded(found: dict[str, Any]) -> None:
    assert found["cancelled"] == [{"raised": True, "left": 0}] * 2


def test_a_sampler_that_chooses_its_own_steps_has_no_noise_levels(found: dict[str, Any]) -> None:
    steps, levels = found["own_steps"]
    assert steps > 4 and levels == [None]


def test_models_of_different_latents_are_refused(found: dict[str, Any]) -> None:
    assert "[3, 16, 8, 8]" in found["different"] and "[3, 16, 1, 8, 8]" in found["different"]


def test_sound_beside_video_is_part_of_the_latent(found: dict[str, Any]) -> None:
    assert found["nested"] == [2, 4 * 3 * 2 * 2 + 5]


def test_results_are_decoded_as_comfyui_does(found: dict[str, Any]) -> None:
    assert found["decoded"] == [True] * 3


def test_without_denoising_there_is_nothing_to_compare(found: dict[str, Any]) -> None:
    assert found["untouched"] == [True, [], None]


def test_a_picture_with_nan_is_named(found: dict[str, Any]) -> None:
    (note,) = found["broken"]
    assert note.startswith("b: 1 of 2 pictures hold NaN or infinity, the first is number 2")


def test_what_a_device_without_tensor_cores_makes_of_nvfp4_is_said(found: dict[str, Any]) -> None:
    layers = found["runs"]["formats"]["nvfp4"]
    assert layers["total"] == layers["emulated"] > 0 and found["runs"]["device"]["nvfp4"] is False
    assert f"{layers['total']} nvfp4" in found["note"] and "full precision" in found["note"]
    assert found["source_note"] == "", "the demo's FP8 layers ask for full precision themselves"


def test_comfyui_tells_whether_cuda_kernels_are_used(found: dict[str, Any]) -> None:
    assert found["kernels"] == [[False, True, False], None], (
        "ComfyUI switches them off where PyTorch is not for CUDA 13"
    )
