"""Random models that stock ComfyUI recognises: small enough to be made at test time, always the same."""

from __future__ import annotations

import json
import math

import torch
from safetensors.torch import save_file


def linear(generator: torch.Generator, out_features: int, in_features: int, gain: float = 1.0) -> torch.Tensor:
    """A weight whose outputs have about the size of its inputs."""
    return torch.randn(out_features, in_features, generator=generator) * (gain / math.sqrt(in_features))


def flux(hidden: int = 128, context: int = 64, vector: int = 64, seed: int = 0) -> dict[str, torch.Tensor]:
    """Flux.1's keys: one double and one single block, 16 latent channels, heads of 128 channels."""
    g = torch.Generator().manual_seed(seed)
    sd: dict[str, torch.Tensor] = {}

    def add(name: str, out_features: int, in_features: int, gain: float = 1.0) -> None:
        sd[f"{name}.weight"] = linear(g, out_features, in_features, gain)
        sd[f"{name}.bias"] = torch.randn(out_features, generator=g) * 0.02

    add("img_in", hidden, 64)
    add("txt_in", hidden, context)
    for name, width in (("time_in", 256), ("vector_in", vector)):
        add(f"{name}.in_layer", hidden, width)
        add(f"{name}.out_layer", hidden, hidden)
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        add(f"{block}_mod.lin", 6 * hidden, hidden, 0.5)
        add(f"{block}_attn.qkv", 3 * hidden, hidden)
        add(f"{block}_attn.proj", hidden, hidden)
        add(f"{block}_mlp.0", 4 * hidden, hidden)
        add(f"{block}_mlp.2", hidden, 4 * hidden)
        for norm in ("query_norm", "key_norm"):
            sd[f"{block}_attn.norm.{norm}.scale"] = torch.ones(128)
    add("single_blocks.0.modulation.lin", 3 * hidden, hidden, 0.5)
    add("single_blocks.0.linear1", 7 * hidden, hidden)
    add("single_blocks.0.linear2", hidden, 5 * hidden)
    for norm in ("query_norm", "key_norm"):
        sd[f"single_blocks.0.norm.{norm}.scale"] = torch.ones(128)
    add("final_layer.linear", 64, hidden, 0.3)
    add("final_layer.adaLN_modulation.1", 2 * hidden, hidden, 0.5)
    return {name: tensor.to(torch.bfloat16) for name, tensor in sd.items()}


def scaled_fp8(sd: dict[str, torch.Tensor], chosen: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every 2-D weight whose name contains ``chosen`` as scaled FP8 in today's form, and the header for it."""
    out: dict[str, torch.Tensor] = {}
    layers: dict[str, dict[str, str]] = {}
    for name, tensor in sd.items():
        if not (name.endswith(".weight") and tensor.dim() == 2 and chosen in name):
            out[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        scale = tensor.float().abs().amax() / 448
        out[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        out[f"{layer}.weight_scale"] = scale
        marker = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
        out[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(marker).encode()), dtype=torch.uint8)
        layers[layer] = marker
    return out, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def write_flux(path: str, *, fp8: bool = True, **shape: int) -> None:
    """A small random Flux checkpoint as a file."""
    sd = flux(**shape)
    if fp8:
        sd, metadata = scaled_fp8(sd, "_blocks.")
        save_file(sd, path, metadata=metadata)
    else:
        save_file(sd, path)


def conditioning(context: int = 64, vector: int = 64, seed: int = 1) -> list[list[object]]:
    """What a text encoder would give."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randn(1, 6, context, generator=g)
    return [[text, {"pooled_output": torch.randn(1, vector, generator=g), "guidance": 3.5}]]
