"""Run a demo checkpoint, FP8 or mixed NVFP4/FP8, as stock ComfyUI would, without ComfyUI.

The stored form is read by ComfyUI's rules (header before ``comfy_quant`` tensors, scales by suffix) and each
Linear computes as ComfyUI's mixed-precision Linear does, with comfy-kitchen's kernels:

* quantized activations: the input is rounded to the layer's format first. NVFP4 with the stored
  ``input_scale``, or with the call's own amax when there is none; FP8 with ``input_scale``, or with 1.0 when there
  is none, which is why such layers carry ``full_precision_matrix_mult``;
* emulated (``quantize_activations=False``): only the weights are quantized. This is what a GPU without the
  format's tensor cores does.

On CPU comfy-kitchen multiplies the dequantized operands, since there is no FP4 matrix unit; the numbers are
those of the quantized path up to float32 summation order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy_kitchen as ck
import torch
import torch.nn.functional as F
from comfy_kitchen.tensor import TensorCoreNVFP4Layout
from safetensors import safe_open
from torch import Tensor, nn

from .mmdit import MMDiT, MMDiTConfig
from .model import FluxConfig, FluxTransformer

FP8_FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
SCALES = ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale")


class Linear(nn.Module):
    """One Linear of the checkpoint: plain, FP8 or NVFP4. Input [..., in_features] float32, output likewise."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.format: str | None = None
        self.quantize_activations = False
        self.input_scale: Tensor | None = None
        self.pre_quant_scale: Tensor | None = None
        self.register_buffer("weight", torch.empty(out_features, in_features))
        self.register_buffer("bias", torch.zeros(out_features))

    def load(self, name: str, stored: Mapping[str, Tensor], layer: Mapping[str, Any], quantize: bool) -> None:
        """Take this layer's tensors (``weight``, scales, ``bias``) and its metadata entry.

        The weight is dequantized once, here: the demo computes on CPU, where that is what every call would do.

        Raises:
            ValueError: a scale is missing or the format is unknown to this runtime.
        """
        self.format = layer.get("format")
        if self.format is None:
            weight = stored["weight"].float()
        elif self.format in FP8_FORMATS:
            weight = stored["weight"].float() * self._scale(name, stored, "weight_scale")
        elif self.format == "nvfp4":
            weight = ck.dequantize_nvfp4(
                stored["weight"],
                self._scale(name, stored, "weight_scale_2"),
                self._scale(name, stored, "weight_scale").view(torch.float8_e4m3fn),
                torch.float32,
            )[: self.out_features, : self.in_features]
            self.pre_quant_scale = stored.get("pre_quant_scale")
        else:
            raise ValueError(f"layer {name} has format {self.format!r}; the demo runs {[*FP8_FORMATS, 'nvfp4']}")
        self.weight = weight.contiguous()
        if "bias" in stored:
            self.bias = stored["bias"].float()
        self.input_scale = stored.get("input_scale")
        self.quantize_activations = quantize and not layer.get("full_precision_matrix_mult", False)

    @staticmethod
    def _scale(name: str, stored: Mapping[str, Tensor], suffix: str) -> Tensor:
        if suffix not in stored:
            raise ValueError(f"layer {name} has no {suffix}; the checkpoint is incomplete")
        return stored[suffix]

    def round_input(self, x: Tensor) -> Tensor:
        """``x`` [M, K] as the quantized kernels see it: rounded to the layer's format and back to float32."""
        if self.format == "nvfp4":
            data, params = TensorCoreNVFP4Layout.quantize(x, scale=self.input_scale)
            return TensorCoreNVFP4Layout.dequantize(data, params)[: x.shape[0], : x.shape[1]]
        if self.format in FP8_FORMATS:
            scale = torch.ones(()) if self.input_scale is None else self.input_scale
            rounded = ck.quantize_per_tensor_fp8(x, scale, FP8_FORMATS[self.format])
            return ck.dequantize_per_tensor_fp8(rounded, scale, torch.float32)
        return x

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_quant_scale is not None:
            x = x * self.pre_quant_scale.to(x.dtype)
        if self.quantize_activations:
            x = self.round_input(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        return F.linear(x, self.weight, self.bias)


def layer_metadata(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Each quantized layer's entry. Where header and ``comfy_quant`` tensor differ, the header wins, as in ComfyUI."""
    layers = {
        name.removesuffix(".comfy_quant"): json.loads(bytes(tensor.tolist()))
        for name, tensor in tensors.items()
        if name.endswith(".comfy_quant")
    }
    layers.update(json.loads(header.get("_quantization_metadata", "{}")).get("layers", {}))
    return layers


def empty_model(tensors: Mapping[str, Tensor]) -> FluxTransformer | MMDiT:
    """The model that these tensors, by names without prefix, belong to, with this runtime's Linear layers."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if any(name.startswith("joint_blocks.") for name in shapes):
        return MMDiT(MMDiTConfig.from_shapes(shapes), linear=Linear)
    return FluxTransformer(FluxConfig.from_shapes(shapes), linear=Linear)


def load_model(path: Path | str, quantize_activations: bool = True) -> FluxTransformer | MMDiT:
    """Load a checkpoint of a demo model, prefixed or bare, ready for inference on CPU in float32.

    Raises:
        ValueError: neither a Flux.1 nor an SD3 layout, an incomplete layer, or tensors that belong to no layer.
    """
    with safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    layers = layer_metadata(header, tensors)
    prefix = "model.diffusion_model."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    layers = {name.removeprefix(prefix): layer for name, layer in layers.items()}

    model = empty_model(tensors)
    used = {name for name in tensors if name.endswith(".comfy_quant")}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            stored = {s: tensors[f"{name}.{s}"] for s in ("weight", "bias", *SCALES) if f"{name}.{s}" in tensors}
            if "weight" not in stored:
                raise ValueError(f"{path}: {name}.weight is missing")
            module.load(name, stored, layers.get(name, {}), quantize_activations)
            used.update(f"{name}.{suffix}" for suffix in stored)
    for name, parameter in model.named_parameters():
        if name not in tensors:
            raise ValueError(f"{path}: {name} is missing")
        parameter.data = tensors[name].float()
        used.add(name)
    left = sorted(set(tensors) - used)
    if left:
        raise ValueError(f"{path}: {len(left)} tensors belong to no layer of the model, the first is {left[0]}")
    return model.eval().requires_grad_(False)
