# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""A second process that samples the same model into the file that the first one left; then further prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bootstrap import REQUEST, answer, load_pack

import comfy.sd
import torch
from nodes import common_ksampler
from small_models import conditioning

load_pack()
from custom_nodes_nvfp4.calibration import conditioning_digest, load
from custom_nodes_nvfp4.nodes import patching, session

path = Path(REQUEST["work"]) / "first.safetensors"
model = comfy.sd.load_diffusion_model(str(path.with_name("fp8.safetensors")))
watched = patching.add_calibration(model, patching.CalibrationPatch(path, restart=False, show=lambda text: None))
first, second, negative = (conditioning(seed=seed) for seed in (1, 3, 2))


def sampled(seed: int, positive: list[Any]) -> Any:
    """The file after one more sampling."""
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    common_ksampler(watched, seed, 4, 1.0, "euler", "simple", positive, negative, latent)
    return load(path)


total = sampled(3, first)
for seed in range(4, 8):
    of_two = sampled(seed, second)
regions = [sampled(8, [*first, *second]).prompts.count, sampled(9, [*second, *first]).prompts.count]
odd = {
    "positive": [{"cross_attn": "no tensor"}, {}, "no prompt"],
    "middle": None,
    "negative": [{"cross_attn": negative}],
}
answer(
    samplings=total.samplings,
    steps=total.steps,
    layers=len(total.layers),
    prompts=[total.prompts.count, of_two.prompts.count, *regions],
    advice={"one": total.coverage().recommendations, "two": of_two.coverage().recommendations},
    unknown=conditioning_digest(session.given(odd)),
)
