"""Write the two sources of the comparison: a Qwen-Image with one block in BF16, and the same in scaled FP8.

    python make_sources.py FOLDER --width 3072

The weights are Gaussian, as of a freshly initialised model, the biases small; the 14 linear layers of the
block hold 36·width² weights, 340 million at the real width. The FP8 file has today's form: weight,
weight_scale = amax/448 and a comfy_quant tag.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

TEXT, CHANNELS, HEAD, TIME = 3584, 64, 128, 256
BLOCK = "transformer_blocks.0."
LINEAR = {
    **{f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"attn.{name}": (1, 1) for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")},
    **{f"{stream}_mlp.net.0.proj": (4, 1) for stream in ("img", "txt")},
    **{f"{stream}_mlp.net.2": (1, 4) for stream in ("img", "txt")},
    **{f"{stream}_mod.1": (6, 1) for stream in ("img", "txt")},
}
"""Layers of the block: (out_features, in_features) in widths."""
FP8_MAX = 448.0
TAG = {"format": "float8_e4m3fn"}


def source(width: int) -> dict[str, torch.Tensor]:
    """All tensors of the model in BF16; those of the block's linear layers have names starting with BLOCK."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).mul_(0.02).bfloat16()

    shapes = {
        "img_in": (width, CHANNELS),
        "txt_in": (width, TEXT),
        "time_text_embed.timestep_embedder.linear_1": (width, TIME),
        "time_text_embed.timestep_embedder.linear_2": (width, width),
        "norm_out.linear": (2 * width, width),
        "proj_out": (CHANNELS, width),
        **{f"{BLOCK}{name}": (rows * width, columns * width) for name, (rows, columns) in LINEAR.items()},
    }
    tensors = {"txt_norm.weight": torch.ones(TEXT, dtype=torch.bfloat16)}
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        tensors[f"{BLOCK}attn.{name}.weight"] = torch.ones(HEAD, dtype=torch.bfloat16)
    for name, shape in shapes.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = normal(*shape), normal(shape[0])
    return tensors


def in_scaled_fp8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same model with the block's linear weights in FP8, each with one scale."""
    result = dict(tensors)
    for name in LINEAR:
        weight = tensors[f"{BLOCK}{name}.weight"].float()
        scale = weight.abs().max() / FP8_MAX
        result[f"{BLOCK}{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
        result[f"{BLOCK}{name}.weight_scale"] = scale
        result[f"{BLOCK}{name}.comfy_quant"] = torch.tensor(list(json.dumps(TAG).encode()), dtype=torch.uint8)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, required=True)
    options = parser.parse_args()
    tensors = source(options.width)
    save_file(tensors, options.folder / "bf16.safetensors")
    save_file(in_scaled_fp8(tensors), options.folder / "scaled-fp8.safetensors")


if __name__ == "__main__":
    main()
