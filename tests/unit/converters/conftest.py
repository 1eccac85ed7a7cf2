"""Small checkpoints of every kind that the converter reads. All random numbers are seeded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters.formats import FORMATS

FLUX_LAYERS = {
    "img_attn.qkv": (384, 128),
    "img_attn.proj": (128, 128),
    "img_mlp.0": (512, 128),
    "img_mod.lin": (768, 128),
}


def flux_weights(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Two double blocks in Flux's key layout, 128 wide, plain weights."""
    generator = torch.Generator().manual_seed(5)
    tensors = {"img_in.weight": torch.randn(128, 64, generator=generator).to(dtype)}
    for block in range(2):
        for name, shape in FLUX_LAYERS.items():
            weight = torch.randn(shape, generator=generator) * 0.02
            tensors[f"double_blocks.{block}.{name}.weight"] = weight.to(dtype)
            tensors[f"double_blocks.{block}.{name}.bias"] = torch.randn(shape[0], generator=generator).to(
                torch.bfloat16
            )
        tensors[f"double_blocks.{block}.img_attn.norm.key_norm.scale"] = torch.ones(64)
    return tensors


def is_block_weight(name: str) -> bool:
    return "double_blocks" in name and name.endswith(".weight")


def raw_fp8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: tensor.to(torch.float8_e4m3fn) if is_block_weight(name) else tensor for name, tensor in tensors.items()
    }


def scaled_fp8(tensors: dict[str, torch.Tensor], scale_name: str) -> dict[str, torch.Tensor]:
    result = dict(tensors)
    for name, tensor in tensors.items():
        if is_block_weight(name):
            scale = tensor.float().abs().amax() / 448
            result[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            result[name.removesuffix("weight") + scale_name] = scale
    return result


def tagged(tensors: dict[str, torch.Tensor], **extra: object) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Add both metadata forms for every FP8 weight."""
    result = dict(tensors)
    entry = {"format": "float8_e4m3fn", **extra}
    layers = [name.removesuffix(".weight") for name in tensors if tensors[name].dtype == torch.float8_e4m3fn]
    for layer in layers:
        result[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    header = {"format_version": "1.0", "layers": {layer: entry for layer in layers}}
    return result, {"_quantization_metadata": json.dumps(header)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint: kind is bf16, fp16, fp32, raw, scaled, legacy, untagged, or all-in-one."""

    def write(kind: str, name: str = "source.safetensors") -> Path:
        metadata: dict[str, str] = {"author": "test"}
        if kind in ("bf16", "fp16", "fp32"):
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[kind]
            tensors = flux_weights(dtype)
        elif kind == "raw":
            tensors = raw_fp8(flux_weights())
        elif kind == "scaled":
            tensors, more = tagged(scaled_fp8(flux_weights(), "weight_scale"))
            metadata |= more
        elif kind == "untagged":
            tensors = scaled_fp8(flux_weights(), "weight_scale")
        elif kind == "legacy":
            tensors = scaled_fp8(flux_weights(), "scale_weight")
            tensors["scaled_fp8"] = torch.zeros(1).to(torch.float8_e4m3fn)
            tensors["double_blocks.0.img_mod.lin.scale_input"] = torch.tensor(1.0)
            tensors["double_blocks.1.img_mod.lin.scale_input"] = torch.tensor(0.25)
        elif kind == "all-in-one":
            inner, more = tagged(scaled_fp8(flux_weights(), "weight_scale"))
            tensors = {f"model.diffusion_model.{key}": value for key, value in inner.items()}
            header = json.loads(more["_quantization_metadata"])
            header["layers"] = {f"model.diffusion_model.{key}": value for key, value in header["layers"].items()}
            metadata["_quantization_metadata"] = json.dumps(header)
            encoder = "text_encoders.clip_l.transformer.text_model."
            generator = torch.Generator().manual_seed(7)
            for layer in range(2):
                weight = torch.randn(64, 64, generator=generator).to(torch.float8_e4m3fn)
                tensors[f"{encoder}encoder.layers.{layer}.mlp.fc1.weight"] = weight
            tensors[f"{encoder}embeddings.token_embedding.weight"] = torch.randn(32, 64, generator=generator).to(
                torch.float8_e4m3fn
            )
            tensors["vae.decoder.conv_in.weight"] = torch.randn(4, 4, 3, 3, generator=generator)
            tensors["double_blocks.9.gone.weight_scale"] = torch.tensor(2.0)
        else:
            raise AssertionError(kind)
        path = tmp_path / name
        save_file(tensors, path, metadata=metadata)
        return path

    return write


@dataclass(frozen=True)
class Held:
    """A stored layer in memory, for a format's decoder."""

    name: str
    shape: tuple[int, int]
    fields: Mapping[str, object]
    tensors: Mapping[str, torch.Tensor]

    def rows(self, first: int, last: int) -> torch.Tensor:
        return self.tensors["weight"][first:last]

    def tensor(self, suffix: str) -> torch.Tensor | None:
        return self.tensors.get(suffix)


@pytest.fixture(scope="session")
def decoded() -> Callable[..., torch.Tensor]:
    """Decode stored tensors of a format, in two pieces of rows."""

    def decode(
        name: str, tensors: Mapping[str, torch.Tensor], shape: tuple[int, int], **fields: object
    ) -> torch.Tensor:
        rows = FORMATS[name].decoder(Held("layer", shape, fields, tensors))
        half = shape[0] // 2
        return torch.cat([rows(0, half), rows(half, shape[0])])

    return decode
