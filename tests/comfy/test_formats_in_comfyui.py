"""Every format that is written: stock ComfyUI loads the demo model in it, decodes it as we do, and samples alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LEAST_PSNR_DB = {
    "nvfp4": 34.0,
    "mxfp8": 41.0,
    "int8_tensorwise": 52.0,
    "int8_convrot": 52.0,
    "convrot_w4a4": 32.0,
    "asym_w4a8_int8": 38.0,
    "recipe mxfp8": 40.0,
    "recipe int8": 52.0,
}
"""Each about 5 to 10 dB below what was measured: the last digits depend on the machine's matrix kernels."""
STORED = {"int8_convrot": "int8_tensorwise", "recipe mxfp8": "mxfp8", "recipe int8": "int8_tensorwise"}


@pytest.fixture(scope="module")
def demo(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("formats", work=str(tmp_path_factory.mktemp("formats")))


def test_every_format_is_tried(demo: dict[str, Any]) -> None:
    assert demo.keys() == LEAST_PSNR_DB.keys()


@pytest.mark.parametrize("name", LEAST_PSNR_DB)
def test_it_loads_as_planned(demo: dict[str, Any], name: str) -> None:
    found = demo[name]
    stored = STORED.get(name, name)
    assert found["formats"][stored] == found["planned"][stored] == (26 if name.startswith("recipe") else 20)
    assert sum(found["formats"].values()) == 26
    assert found["config"], "ComfyUI recognises the same model as in the source"


@pytest.mark.parametrize("name", LEAST_PSNR_DB)
def test_comfyui_dequantizes_to_what_the_verifier_measures(demo: dict[str, Any], name: str) -> None:
    assert demo[name]["alike"]


@pytest.mark.parametrize("name", LEAST_PSNR_DB)
def test_pictures_agree(demo: dict[str, Any], name: str) -> None:
    assert demo[name]["psnr"] >= LEAST_PSNR_DB[name]
    assert demo[name]["psnr_quantized_inputs"] >= LEAST_PSNR_DB[name]
