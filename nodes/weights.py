"""The model's own weights while something may be merged into them: fingerprints, and what was merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.quant_ops import QuantizedTensor

from ..calibration import sample_rows, samples_from_rows, tensor_samples
from ..calibration.collector import NOT_ADAPTED

PREFIX = "diffusion_model."
NAMED_STRENGTHS = 3


def original_samples(patcher: Any, layers: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """Each layer's fingerprint, of the weight as it was loaded: a LoRA that is merged in now does not count.

    ComfyUI keeps the weights that it has patched in ``backup`` (LoRA) and ``hook_backup`` (LoRA hooks); the
    others lie in the modules, on whatever device, or are patched only while they are used.
    """
    found = {}
    for name, module in layers.items():
        key = f"{PREFIX}{name}.weight"
        weight = getattr(module, "weight", None)
        if key in patcher.hook_backup:
            weight = patcher.hook_backup[key][0]
        if key in patcher.backup:
            weight = patcher.backup[key].weight
        smoothing = getattr(module, "pre_quant_scale", None)
        if isinstance(weight, torch.Tensor) and smoothing is not None:
            # The input is multiplied by it, so the weight was divided by it; the layer's own weight is their product.
            weight = weight.data.dequantize() * smoothing.to(weight.device)
        if isinstance(weight, torch.Tensor):
            found[name] = _samples(weight, (module.out_features, module.in_features))
    return found


def adaptation(patcher: Any) -> str:
    """What is patched into the weights, in words: "none" or "224 weights patched (strength 0.8)".

    A LoRA that runs beside the weights instead ("bypass") changes the inputs of later layers just as much; of
    such an injection ComfyUI tells the name only.
    """
    injected = [f"{name} injected" for name, injections in sorted(patcher.injections.items()) if injections]
    return ", ".join(filter(None, (_patched(patcher), *injected))) or NOT_ADAPTED


def _patched(patcher: Any) -> str:
    patches = {key: found for key, found in patcher.patches.items() if _key(key).startswith(PREFIX)}
    for by_key in patcher.hook_patches.values():
        patches.update({key: found for key, found in by_key.items() if _key(key).startswith(PREFIX)})
    weights = {_key(key) for key in patches}
    if not weights:
        return ""
    strengths = sorted({float(patch[0]) for found in patches.values() for patch in found})
    named = ", ".join(f"{strength:g}" for strength in strengths[:NAMED_STRENGTHS])
    more = ", …" if len(strengths) > NAMED_STRENGTHS else ""
    plural = "s" if len(strengths) > 1 else ""
    return f"{len(weights)} weight{'s' if len(weights) > 1 else ''} patched (strength{plural} {named}{more})"


def _key(key: Any) -> str:
    """A patch of a part of a weight is kept under (name, part)."""
    return str(key if isinstance(key, str) else key[0])


@torch.no_grad()
def _samples(weight: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Four rows of an FP8 weight with a scale are upcast here: dequantizing all of it would take a thousand
    times as long, for each of a thousand layers.
    """
    if isinstance(weight, torch.nn.Parameter):
        weight = weight.data
    if isinstance(weight, QuantizedTensor):
        stored, scale = weight._qdata, getattr(weight._params, "scale", None)
        fp8 = stored.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) and tuple(stored.shape) == shape
        if fp8 and isinstance(scale, torch.Tensor) and scale.numel() in (1, shape[0]):
            rows = sample_rows(shape)
            scales = scale.flatten().float().expand(shape[0])[rows].to(stored.device)
            return samples_from_rows(torch.stack([stored[row].float() for row in rows]) * scales[:, None], shape)
    return tensor_samples(weight, shape)
