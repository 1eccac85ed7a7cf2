# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""Load a demo checkpoint in ComfyUI and compare one evaluation and one sampling with the pack's own runtime."""

from __future__ import annotations

from bootstrap import REQUEST, answer, load_pack

import importlib

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import torch

pack = load_pack().__name__
conditioning = importlib.import_module(f"{pack}.demo.conditioning")
data = importlib.import_module(f"{pack}.demo.data")
runtime = importlib.import_module(f"{pack}.demo.runtime")
sampling = importlib.import_module(f"{pack}.demo.sampling")

patcher = comfy.sd.load_diffusion_model(REQUEST["source"])
comfy.model_management.load_models_gpu([patcher])
theirs, ours = patcher.model.diffusion_model, runtime.load_model(REQUEST["source"])

labels = [1, 5, 8]
context, pooled = conditioning.class_conditioning(labels)
sigma = torch.tensor([1.0, 0.5, 0.02])
timestep = patcher.model.model_sampling.timestep(sigma)
errors = {}
with torch.inference_mode():
    for height, width in ((8, 8), (6, 10)):
        x = torch.randn(3, 16, height, width, generator=torch.Generator().manual_seed(0))
        expected = theirs(x, timestep, context, pooled)
        error = (ours(x, sigma, context, pooled) - expected).norm() / expected.norm()
        errors[f"{height}x{width}"] = error.item()

seed, steps = 3, 8
noise = sampling.start_noise([seed])
context, pooled = conditioning.class_conditioning([labels[2]])
positive = [[context, {"pooled_output": pooled}]]
latent = comfy.sample.sample(
    patcher, noise, steps, 1.0, "euler", "simple", positive, positive, torch.zeros_like(noise), seed=seed
)
stored = (data.SD3_SCALE, data.SD3_SHIFT) if REQUEST["layout"] == "sd3" else (data.COMFY_SCALE, data.COMFY_SHIFT)
theirs, ours = data.from_comfy(latent, *stored), sampling.sample(ours, [labels[2]], [seed], steps=steps)
pictures = data.unfold(theirs), data.unfold(ours)
config = patcher.model.model_config.unet_config
answer(
    model=type(patcher.model).__name__,
    config={key: config[key] for key in REQUEST["config"]},
    errors=errors,
    largest_pixel_difference=(pictures[0] - pictures[1]).abs().max().item(),
)
