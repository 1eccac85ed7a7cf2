"""Whether a stored layer is one that stock ComfyUI loads and computes rightly: dtypes, shapes, scales."""

from __future__ import annotations

import math

import torch

from .formats import nvfp4
from .layers import SourceLayer
from .source import Source

Declared = dict[str, tuple[torch.dtype, tuple[int, ...] | None]]
"""What a tensor of a layer must be; a shape of None means a single value in any shape."""


def broken_storage(source: Source, layer: SourceLayer, shape: tuple[int, int], part: str) -> list[str]:
    """Name everything that ComfyUI would refuse, or silently compute wrongly.

    Args:
        source: the converted file.
        layer: one of its layers.
        shape: (out_features, in_features) of the weight.
        part: component of the checkpoint that the layer belongs to.
    """
    if not (layer.is_fp8 or layer.format == nvfp4.NAME):
        return []
    problems = []
    for suffix, (dtype, wanted) in _declared(source, layer, shape).items():
        name = f"{layer.name}.{suffix}"
        info = source.tensors.get(name)
        if info is None or info.torch_dtype != dtype:
            problems.append(f"{name} is {info.dtype if info else 'missing'}, expected {dtype}")
        elif (info.shape != wanted) if wanted is not None else (math.prod(info.shape) != 1):
            problems.append(
                f"{name} has shape {list(info.shape)}, expected {'one value' if wanted is None else list(wanted)}"
            )
        elif suffix != "weight":
            problems += _bad_values(source, name, dtype)
    if layer.is_fp8 and part == "diffusion_model" and layer.input_scale is None and not layer.full_precision:
        problems.append(f"{layer.name} is FP8 without input_scale: ComfyUI would clamp its input at ±448")
    return problems


def _declared(source: Source, layer: SourceLayer, shape: tuple[int, int]) -> Declared:
    declared: Declared
    if layer.is_fp8:
        declared = {"weight": (source.tensors[layer.weight].torch_dtype, shape), "weight_scale": (torch.float32, None)}
    else:
        declared = dict(nvfp4.declare(shape))
        declared["weight_scale_2"] = (torch.float32, None)
    if layer.input_scale is not None:
        declared["input_scale"] = (torch.float32, None)
    return declared


def _bad_values(source: Source, name: str, dtype: torch.dtype) -> list[str]:
    """Block scales of all-zero blocks and of padding are zero; every other scale must be positive."""
    values = source.read(name).float()
    least = 0.0 if dtype == torch.float8_e4m3fn else torch.finfo(torch.float32).tiny
    if bool(torch.isfinite(values).all()) and not bool((values < least).any()):
        return []
    return [f"{name} holds a value that is not finite and positive"]
