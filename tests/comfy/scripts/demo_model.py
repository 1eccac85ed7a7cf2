# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""Load the demo checkpoint in ComfyUI and compare one evaluation and one sampling with the pack's own runtime."""

from __future__ import annotations

from bootstrap import answer, load_pack

import importlib

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import torch

pack = load_pack().__name__
run = importlib.import_module(f"{pack}.demo.run")
conditioning = importlib.import_module(f"{pack}.demo.conditioning")
data = importlib.import_module(f"{pack}.demo.data")
runtime = importlib.import_module(f"{pack}.demo.runtime")
sampling = importlib.import_module(f"{pack}.demo.sampling")

patcher = comfy.sd.load_diffusion_model(str(run.SOURCE))
comfy.model_management.load_models_gpu([patcher])
theirs, ours = patcher.model.diffusion_model, runtime.load_model(run.SOURCE)

labels = [1, 5, 8]
context, pooled = conditioning.class_conditioning(labels)
sigma = torch.tensor([1.0, 0.5, 0.02])
errors = {}
with torch.inference_mode():
    for height, width in ((8, 8), (6, 10)):
        x = torch.randn(3, 16, height, width, generator=torch.Generator().manual_seed(0))
        expected = theirs(x, sigma, context, pooled)
        error = (ours(x, sigma, context, pooled) - expected).norm() / expected.norm()
        errors[f"{height}x{width}"] = error.item()

seed, steps = 3, 8
noise = sampling.start_noise([seed])
context, pooled = conditioning.class_conditioning([labels[2]])
positive = [[context, {"pooled_output": pooled}]]
latent = comfy.sample.sample(
    patcher, noise, steps, 1.0, "euler", "simple", positive, positive, torch.zeros_like(noise), seed=seed
)
pictures = data.unfold(data.from_comfy(latent)), data.unfold(sampling.sample(ours, [labels[2]], [seed], steps=steps))
answer(
    model=type(patcher.model).__name__,
    config={key: patcher.model.model_config.unet_config[key] for key in ("image_model", "hidden_size", "num_heads")},
    errors=errors,
    largest_pixel_difference=(pictures[0] - pictures[1]).abs().max().item(),
)
