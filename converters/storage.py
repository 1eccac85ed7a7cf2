"""Whether a stored layer is one that stock ComfyUI loads and computes rightly: dtypes, shapes, scales."""

from __future__ import annotations

import torch

from .formats import FORMATS, InputScale, nvfp4
from .layers import SourceLayer
from .source import Source

PRE_QUANT = "pre_quant_scale"
NEGATIVE_ZERO = 0x80
"""In E4M3 and E5M2; E8M0 has a 2 there, which is as good as a 0."""


def broken_storage(source: Source, layer: SourceLayer, shape: tuple[int, int], part: str) -> list[str]:
    """Name everything that ComfyUI would refuse, or silently compute wrongly.

    Args:
        source: the converted file.
        layer: one of its layers.
        shape: (out_features, in_features) of the weight.
        part: component of the checkpoint that the layer belongs to.
    """
    if layer.format not in FORMATS:
        return []
    stored = FORMATS[layer.format]
    declared = dict(stored.declare(shape, layer.tag or {"format": layer.format}))
    if layer.input_scale is not None:
        declared["input_scale"] = (torch.float32, ())
    if layer.is_fp8 and part != "diffusion_model":
        # Whatever scales its source has pass through, and are compared with them.
        declared = {"weight": declared["weight"]}
    problems = []
    for suffix, (dtype, wanted) in declared.items():
        name = f"{layer.name}.{suffix}"
        info = source.tensors.get(name)
        if info is None or info.torch_dtype != dtype:
            problems.append(f"{name} is {info.dtype if info else 'missing'}, expected {dtype}")
        elif (info.shape != wanted) if wanted else (info.count != 1):
            problems.append(f"{name} has shape {list(info.shape)}, expected {list(wanted) if wanted else 'one value'}")
        elif suffix in (*stored.SCALES, "input_scale"):
            problems += _bad_values(source, name, dtype)
    scale = source.tensors.get(f"{layer.name}.{PRE_QUANT}")
    if scale is not None and layer.format != nvfp4.NAME:
        problems.append(f"{layer.name} is {layer.format} with a {PRE_QUANT}, which ComfyUI would ignore")
    elif scale is not None and scale.shape != shape[1:]:
        problems.append(f"{layer.name}.{PRE_QUANT} has shape {list(scale.shape)}, expected {list(shape[1:])}")
    elif scale is not None:
        problems += _bad_values(source, f"{layer.name}.{PRE_QUANT}", torch.float32)
    clamps = stored.INPUT_SCALE is InputScale.NEEDED and layer.input_scale is None and not layer.full_precision
    if clamps and part == "diffusion_model":
        problems.append(f"{layer.name} is FP8 without input_scale: ComfyUI would clamp its input at ±448")
    return problems


def _bad_values(source: Source, name: str, dtype: torch.dtype) -> list[str]:
    """Block scales of all-zero blocks and of padding are zero; every other scale must be positive."""
    values = source.read(name)
    if dtype.itemsize == 1 and values.numel():
        # Codes order like the numbers that they stand for, so that the largest speaks for all below it; only -0 does not.
        codes = values.view(torch.uint8)
        largest = int(codes.masked_fill(codes == NEGATIVE_ZERO, 0).amax())
        values = torch.arange(largest + 1, dtype=torch.uint8).view(dtype)
    values = values.float()
    least = torch.finfo(torch.float32).tiny if dtype == torch.float32 else 0.0
    if bool(torch.isfinite(values).all()) and not bool((values < least).any()):
        return []
    return [f"{name} holds a value that is not finite and positive"]
