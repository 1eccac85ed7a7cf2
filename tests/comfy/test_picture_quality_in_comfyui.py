"""The figures of benchmarks/picture_quality.py, which our own runtime draws, are those of stock ComfyUI."""

from __future__ import annotations

import pytest

from nvfp4_studio.demo.train import CHECKPOINTS

GPTQ_OVER_NEAREST_DB = 2.0
"""On ten pictures; on 400 it is above 3."""


@pytest.mark.parametrize("layout", CHECKPOINTS)
def test_comfyui_draws_as_close_to_the_source_as_our_runtime(run_in_comfy, tmp_path, layout):
    source, work = str(CHECKPOINTS[layout]), str(tmp_path)
    found = run_in_comfy(
        "picture_quality", source=source, layout=layout, work=work, roundings=["nearest", "gptq"], timeout=500
    )
    for measured in found.values():
        assert measured["comfyui"] == pytest.approx(measured["ours"], abs=0.5)
    assert found["gptq"]["comfyui"] >= found["nearest"]["comfyui"] + GPTQ_OVER_NEAREST_DB
