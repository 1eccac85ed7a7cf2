# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""The demo model's ten digits, drawn by stock ComfyUI with quantized activations and by our runtime; its calibration."""

from __future__ import annotations

from bootstrap import load_pack

import importlib
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import torch

PACK = load_pack().__name__
LABELS = list(range(10))
SEEDS = [100 + label for label in LABELS]
for name in ("supports_nvfp4_compute", "supports_fp8_compute"):
    setattr(comfy.model_management, name, lambda device=None: True)


def part(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"{PACK}.{name}")


data, sampling, runtime = (part(f"demo.{name}") for name in ("data", "sampling", "runtime"))
FLUX = (data.COMFY_SCALE, data.COMFY_SHIFT)


def in_comfyui(patcher: Any, stored: tuple[float, float] = FLUX) -> torch.Tensor:
    """Ink [10, 32, 32] of every class; ``stored`` is what the layout's latents are scaled and shifted by."""
    context, pooled = part("demo.conditioning").class_conditioning(LABELS)
    positive = [[context, {"pooled_output": pooled}]]
    noise = sampling.start_noise(SEEDS)
    zeros = torch.zeros_like(noise)
    latent = comfy.sample.sample(patcher, noise, 20, 1.0, "euler", "simple", positive, positive, zeros, seed=0)
    return data.unfold(data.from_comfy(latent, *stored))


def in_our_runtime(path: Path) -> torch.Tensor:
    return data.unfold(sampling.sample(runtime.load_model(path), LABELS, SEEDS))


def calibrated(model: torch.nn.Module) -> Any:
    """What four pictures of each class show."""
    collector = part("calibration").Collector(model, detail="curvature")
    labels = LABELS * 4
    sampling.sample(model, labels, list(range(len(labels))), observing=collector.observing)
    return collector.finish(images=len(labels))
