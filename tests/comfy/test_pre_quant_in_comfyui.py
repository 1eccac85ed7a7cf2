"""Stock ComfyUI multiplies by pre_quant_scale as the simulation does: one layer's outputs, and whole pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nvfp4_studio.demo.train import CHECKPOINTS

LAYER = "single_blocks.0.linear1"
BF16_OUTPUT = 2.0**-14
"""Squared relative error of outputs in bfloat16, which ComfyUI's are here; NVFP4's own is a hundred times as large."""


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = str(tmp_path_factory.mktemp("pre_quant"))
    return run_in_comfy("pre_quant", source=str(CHECKPOINTS["flux"]), work=work, layer=LAYER, timeout=500)


def test_every_layer_for_which_a_scale_was_found_is_loaded_with_it(found: dict[str, Any]) -> None:
    assert found["found"] == found["with_scale"] == found["loaded"] > 10


def test_a_layers_outputs_are_those_of_the_simulation(found: dict[str, Any]) -> None:
    assert found["difference"] < BF16_OUTPUT < found["without"]


def test_pictures_are_as_close_as_our_runtime_says(found: dict[str, Any]) -> None:
    assert found["psnr"]["comfyui"] == pytest.approx(found["psnr"]["ours"], abs=0.5)
    assert found["psnr"]["comfyui"] > 38
