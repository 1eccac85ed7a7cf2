# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""PSNR of a converted demo model's pictures to its source's, in ComfyUI with quantized activations and in our runtime."""

from __future__ import annotations

from bootstrap import REQUEST, answer, load_pack

import importlib
from pathlib import Path

import comfy.model_management
import comfy.sample
import comfy.sd
import torch

pack = load_pack().__name__
calibration = importlib.import_module(f"{pack}.calibration")
conditioning = importlib.import_module(f"{pack}.demo.conditioning")
converters = importlib.import_module(f"{pack}.converters")
data = importlib.import_module(f"{pack}.demo.data")
runtime = importlib.import_module(f"{pack}.demo.runtime")
sampling = importlib.import_module(f"{pack}.demo.sampling")
sheet = importlib.import_module(f"{pack}.demo.sheet")

LABELS = list(range(10))
SEEDS = [100 + label for label in LABELS]
STORED = {"flux": (data.COMFY_SCALE, data.COMFY_SHIFT), "sd3": (data.SD3_SCALE, data.SD3_SHIFT)}[REQUEST["layout"]]
for name in ("supports_nvfp4_compute", "supports_fp8_compute"):
    setattr(comfy.model_management, name, lambda device=None: True)


def in_comfyui(path: Path) -> torch.Tensor:
    """Ink [10, 32, 32] of every class."""
    patcher = comfy.sd.load_diffusion_model(str(path))
    context, pooled = conditioning.class_conditioning(LABELS)
    positive = [[context, {"pooled_output": pooled}]]
    noise = sampling.start_noise(SEEDS)
    zeros = torch.zeros_like(noise)
    latent = comfy.sample.sample(patcher, noise, 20, 1.0, "euler", "simple", positive, positive, zeros, seed=0)
    return data.unfold(data.from_comfy(latent, *STORED))


def in_our_runtime(path: Path) -> torch.Tensor:
    return data.unfold(sampling.sample(runtime.load_model(path), LABELS, SEEDS))


source = Path(REQUEST["source"])
model = runtime.load_model(source)
collector = calibration.Collector(model, detail="curvature")
labels = LABELS * 4
sampling.sample(model, labels, list(range(len(labels))), observing=collector.observing)
collected = collector.finish(images=len(labels))

found = {}
expected = {"comfyui": in_comfyui(source), "ours": in_our_runtime(source)}
for rounding in REQUEST["roundings"]:
    target = Path(REQUEST["work"]) / f"{rounding}.safetensors"
    converters.convert(source, target, converters.Options(rounding=rounding), calibration=collected, device="cpu")
    drawn = {"comfyui": in_comfyui(target), "ours": in_our_runtime(target)}
    found[rounding] = {where: sheet.psnr(expected[where], drawn[where]) for where in drawn}
answer(**found)
