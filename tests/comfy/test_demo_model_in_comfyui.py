"""The demo model is Flux to stock ComfyUI, and both compute and draw the same."""

from __future__ import annotations


def test_demo_model_is_flux_and_gives_the_same_numbers(run_in_comfy):
    result = run_in_comfy("demo_model")
    assert result["model"] == "Flux"
    assert result["config"] == {"image_model": "flux", "hidden_size": 256, "num_heads": 2}
    assert max(result["errors"].values()) < 1e-4, result["errors"]
    # ComfyUI's schedule is rounded to thousandths, so the pictures agree to the eye and not to the bit.
    assert result["largest_pixel_difference"] < 0.02
