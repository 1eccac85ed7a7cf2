"""An all-in-one checkpoint with random weights that SD3's loader accepts: 175 MB, made in seconds."""

from __future__ import annotations

import math

import comfy.ops
import comfy.sd1_clip
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
from small_models import scaled_fp8

DEPTH = 4
CLIP = "text_encoders.clip_l.transformer."


def filled(module: torch.nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Values of about the right size for every parameter that a module declares."""
    out = {}
    for name, tensor in module.state_dict().items():
        if "norm" in name and name.endswith("weight"):
            out[name] = torch.ones(tensor.shape)
        elif tensor.dim() >= 2 and tensor.is_floating_point():
            width = math.prod(tensor.shape[1:])
            gain = 0.1 if "embed" in name and "proj" not in name and tensor.shape[0] > 1000 else 1.0
            out[name] = torch.randn(tensor.shape, generator=generator) * (gain / math.sqrt(width))
        elif tensor.is_floating_point():
            out[name] = torch.randn(tensor.shape, generator=generator) * 0.02
        else:
            out[name] = tensor.clone()
    return out


def write_all_in_one(path: str, depth: int = DEPTH, fp8: bool = True, vae: bool = False) -> None:
    """SD3's layout: a small MMDiT in scaled FP8 and a CLIP-L whose matrices were cast to FP8 without scales.

    ``vae`` adds a tiny autoencoder, so that there is a picture to save.
    """
    generator = torch.Generator().manual_seed(5)
    width = 64 * depth
    model = MMDiT(
        input_size=None,
        in_channels=16,
        depth=depth,
        adm_in_channels=2048,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": width}},
        num_patches=24 * 24,
        pos_embed_max_size=24,
        pos_embed_scaling_factor=None,
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
        device="cpu",
    )
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in filled(model, generator).items()}
    sd = {name: tensor.to(torch.bfloat16) for name, tensor in prefixed.items()}
    sd, metadata = scaled_fp8(sd, "joint_blocks.") if fp8 else (sd, {})
    clip = comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float32, return_projected_pooled=False)
    for name, tensor in filled(clip.transformer, generator).items():
        matrix = tensor.dim() == 2 and ".layers." in name
        sd[CLIP + name] = tensor.to(torch.float8_e4m3fn if matrix else torch.float16)
    if vae:
        tiny = filled(TAESD(latent_channels=16), generator)
        sd.update({f"first_stage_model.{name}": tensor.to(torch.float16) for name, tensor in tiny.items()})
    save_file(sd, path, metadata=metadata)
