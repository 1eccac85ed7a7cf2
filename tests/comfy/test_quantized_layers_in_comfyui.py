"""What a measurement of output errors computes is what a layer of stock ComfyUI computes, in every format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CASES = (
    "nvfp4",
    "nvfp4 with input_scale",
    "nvfp4 with pre_quant_scale",
    "nvfp4 in full precision",
    "float8_e4m3fn",
    "float8_e4m3fn with input_scale",
    "mxfp8",
    "int8_tensorwise",
    "int8_convrot",
    "convrot_w4a4",
    "asym_w4a8_int8",
)


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_in_comfy("quantized_layers")


def test_every_format_is_tried(found: dict[str, Any]) -> None:
    assert found.keys() == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_comfyuis(found: dict[str, Any], case: str) -> None:
    """In float32 but for the order of sums; in bfloat16 but for the rounding of operands and outputs."""
    assert found[case]["float32"] > 100
    assert found[case]["bfloat16"] > max(40, found[case]["error"] + 6)
