"""Text encoders inside an all-in-one file: stock ComfyUI loads them converted, and the conditioning stays close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_in_comfy("encoders")


def test_the_names_are_those_that_comfyui_looks_for(found: dict[str, Any]) -> None:
    assert found["names"] == []


def test_kept_encoders_give_the_same_conditioning(found: dict[str, Any]) -> None:
    assert found["keep"]["clip_equal"] and found["keep"]["t5_error"] == 0 and found["size"] > 0
    assert found["keep"]["formats"]["t5xxl"] == {}


@pytest.mark.parametrize(
    ("choice", "formats", "largest"),
    [
        ("fp8", {"float8_e4m3fn": 14}, 0.06),
        ("nvfp4", {"nvfp4": 4, "float8_e4m3fn": 10}, 0.1),
    ],
)
def test_converted_encoders_load_and_the_conditioning_is_close(
    found: dict[str, Any], choice: str, formats: dict[str, int], largest: float
) -> None:
    assert found[choice]["formats"]["t5xxl"] == formats
    assert 0 < found[choice]["t5_error"] < largest
    assert found[choice]["clip_equal"], "CLIP stays: ComfyUI builds it without quantized layers"
    assert found[choice]["bytes"] < found["keep"]["bytes"]
