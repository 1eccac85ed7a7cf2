"""The consumer's judgement: stock ComfyUI loads what was converted, samples it, and the pictures agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD_PSNR_DB = 34.0
DEMO = Path(__file__).resolve().parents[2] / "demo" / "assets" / "digits-flux-fp8.safetensors"


@pytest.fixture(scope="module")
def demo(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not DEMO.is_file():
        pytest.skip(f"{DEMO} is missing: train it with demo/train.py")
    return run_in_comfy("sampling_converted", work=str(tmp_path_factory.mktemp("converted")))


def test_the_demo_model_is_sampled_by_stock_comfyui_and_calibration_changes_nothing(demo: dict[str, Any]) -> None:
    assert demo["source_formats"] == {"float8_e4m3fn": 26}
    assert demo["equal"] and 0.1 < demo["ink"] < 0.6
    assert demo["calibration"].startswith("20 images, 40 steps, 34 layers, ")


def test_the_converted_demo_loads_as_mixed_nvfp4_and_fp8(demo: dict[str, Any]) -> None:
    found = demo["default"]
    assert set(found["formats"]) == {"nvfp4", "float8_e4m3fn"}
    assert found["formats"]["nvfp4"] == found["summary"]["nvfp4_layers"]
    assert found["formats"]["float8_e4m3fn"] == found["summary"]["fp8_layers"]
    assert set(demo["weight-only"]["formats"]) == {"nvfp4"}


@pytest.mark.parametrize("variant", ["default", "weight-only", "mixed"])
def test_pictures_agree_with_quantized_activations(demo: dict[str, Any], variant: str) -> None:
    found = demo[variant]
    assert found["quantized"] >= GOOD_PSNR_DB
    assert found["emulated"] >= GOOD_PSNR_DB


def test_each_kind_of_kernel_really_ran(demo: dict[str, Any]) -> None:
    for variant in ("default", "weight-only", "mixed"):
        found = demo[variant]
        assert found["emulated_quantized_calls"] == 0
        assert found["quantized_calls"]["TensorCoreNVFP4Layout"] == found["formats"]["nvfp4"] * 40


def test_fp8_layers_that_run_quantized_have_their_scale(demo: dict[str, Any]) -> None:
    calls = demo["mixed"]["quantized_calls"]
    assert (
        sum(count for layout, count in calls.items() if "FP8" in layout)
        == demo["mixed"]["formats"]["float8_e4m3fn"] * 40
    )


@pytest.fixture(scope="module")
def all_in_one(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("all_in_one", work=str(tmp_path_factory.mktemp("all-in-one")))


def test_an_all_in_one_file_gives_the_same_conditioning(all_in_one: dict[str, Any]) -> None:
    assert all_in_one["conditioning_equal"] and all_in_one["pooled_equal"]
    assert all_in_one["conditioning_size"] > 0


def test_an_all_in_one_file_is_sampled_after_conversion(all_in_one: dict[str, Any]) -> None:
    assert all_in_one["formats"]["nvfp4"] > 0
    for kernels in ("emulated", "quantized"):
        assert all_in_one[kernels] > 15, "random weights: far above noise, far below a trained model"
    assert all_in_one["quantized_calls"] > 0


def test_its_diffusion_model_alone_goes_through_unet_loader(all_in_one: dict[str, Any]) -> None:
    assert all_in_one["alone_equal"]
    assert all_in_one["alone_bytes"] < all_in_one["bytes"] / 4
