"""The demo models' FP8 checkpoints: scaled FP8 in the form that ComfyUI reads today.

Every block Linear is stored as ``weight`` float8_e4m3fn [N, K] with a float32 scalar ``weight_scale``; a uint8
tensor ``comfy_quant`` and the header's ``_quantization_metadata`` say so in the same words. Everything else
(the layers whose shapes ComfyUI sniffs, embedders, final layer, norms, biases) is BF16. Keys carry no prefix:
the file is a bare diffusion model for the Load Diffusion Model node.

Why ``full_precision_matrix_mult`` is set: an FP8 layer without ``input_scale`` runs in ComfyUI with static scale
1.0, which clamps its input at +-448 and rounds small inputs to steps of 2**-9. A source has no statistics yet, so
the mark keeps its activations exact on every machine. A conversion leaves the mark on FP8 layers that stay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FP8_MAX = 448.0
BLOCKS = ("double_blocks.", "single_blocks.", "joint_blocks.")
LAYER = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}


def is_block_linear(name: str, tensor: Tensor) -> bool:
    """Whether a parameter is the matrix of a Linear inside the repeated blocks."""
    return name.startswith(BLOCKS) and name.endswith(".weight") and tensor.ndim == 2


def quantize_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest E4M3 with one scale: weight [N, K] -> (float8_e4m3fn [N, K], float32 scalar amax / 448).

    An all-zero matrix gets scale 1.0, since 0/0 has no nearest value.
    """
    weight = weight.detach().float()
    amax = weight.abs().amax()
    scale = torch.where(amax > 0, amax / FP8_MAX, torch.ones_like(amax))
    return (weight / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scale


def save_fp8(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model's floating-point ``state`` as scaled FP8 to ``path``, whole or not at all.

    ``metadata`` is added to the header, next to ``_quantization_metadata``.
    """
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, object]] = {}
    for name, tensor in state.items():
        if not is_block_linear(name, tensor):
            tensors[name] = tensor.detach().to(torch.bfloat16).contiguous()
            continue
        layer = name.removesuffix(".weight")
        tensors[name], tensors[f"{layer}.weight_scale"] = quantize_fp8(tensor)
        tensors[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(LAYER).encode()), dtype=torch.uint8)
        layers[layer] = dict(LAYER)
    header = {**metadata, "_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    unfinished = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, unfinished, metadata=header)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
