# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""A second process that samples the same model into the file that the first one left."""

from __future__ import annotations

from pathlib import Path

from bootstrap import REQUEST, answer, load_pack

import comfy.sd
import torch
from nodes import common_ksampler
from small_models import conditioning

load_pack()
from custom_nodes_nvfp4.calibration import load
from custom_nodes_nvfp4.nodes import patching

path = Path(REQUEST["work"]) / "first.safetensors"
model = comfy.sd.load_diffusion_model(str(path.with_name("fp8.safetensors")))
watched = patching.add_calibration(model, patching.CalibrationPatch(path, restart=False, show=lambda text: None))
latent = {"samples": torch.zeros(1, 16, 8, 8)}
common_ksampler(watched, 3, 4, 1.0, "euler", "simple", conditioning(seed=1), conditioning(seed=2), latent)
total = load(path)
answer(samplings=total.samplings, steps=total.steps, layers=len(total.layers))
