"""A constant gain per layer, folded into the tensor scale of a converted file."""

from __future__ import annotations

from pathlib import Path

import comfy_kitchen as ck
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def with_gain(source: Path, converted: Path, target: Path) -> float:
    """Write ``converted`` with each NVFP4 layer's ``weight_scale_2`` times <W, W> / <W, Q>; return the mean gain.

    That gain undoes the shrinking of a rounding that clips: the decoded weight's component along the original one
    gets the original's length. ``source`` is scaled FP8, as the demo models are.
    """
    original, tensors = load_file(source), load_file(converted)
    with safe_open(str(converted), framework="pt") as file:
        metadata = file.metadata()
    gains = []
    for name in [name for name in tensors if name.endswith(".weight_scale_2")]:
        layer = name.removesuffix(".weight_scale_2")
        weight = (original[f"{layer}.weight"].float() * original[f"{layer}.weight_scale"]).double()
        scale = tensors[f"{layer}.weight_scale"].view(torch.float8_e4m3fn)
        decoded = ck.dequantize_nvfp4(tensors[f"{layer}.weight"], tensors[name], scale, torch.float32)
        rows, columns = weight.shape
        gain = weight.square().sum() / (weight * decoded[:rows, :columns]).sum()
        tensors[name] = tensors[name] * gain.float()
        gains.append(float(gain))
    save_file(tensors, target, metadata=metadata)
    return sum(gains) / len(gains)
