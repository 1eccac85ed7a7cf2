"""The demo models are Flux and SD3 to stock ComfyUI, and both compute and draw the same."""

from __future__ import annotations

import pytest

from nvfp4_studio.demo.train import CHECKPOINTS

CONFIGS = {
    "flux": ("Flux", {"image_model": "flux", "hidden_size": 256, "num_heads": 2}),
    "sd3": ("SD3", {"depth": 3, "qk_norm": "rms", "adm_in_channels": 256}),
}


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_demo_model_is_recognised_and_gives_the_same_numbers(run_in_comfy, layout):
    model, config = CONFIGS[layout]
    result = run_in_comfy("demo_model", source=str(CHECKPOINTS[layout]), layout=layout, config=list(config))
    assert (result["model"], result["config"]) == (model, config)
    assert max(result["errors"].values()) < 1e-4, result["errors"]
    # ComfyUI's schedule is rounded to thousandths, so the pictures agree to the eye and not to the bit.
    assert result["largest_pixel_difference"] < 0.02
