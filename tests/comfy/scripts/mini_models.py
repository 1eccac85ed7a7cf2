"""Miniatures of models of several families, of ComfyUI's own classes with random weights; a second each to sample."""

from __future__ import annotations

import math
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch

CPU = torch.device("cpu")
UNET: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "legacy": False,
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "context_dim": 24,
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "use_linear_in_transformer": True, "num_heads": 8,
    "use_checkpoint": False, "adm_in_channels": None,
}  # fmt: skip
WAN = {"image_model": "wan2.1", "model_type": "t2v", "dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2}
LTX = {
    "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32,
    "num_attention_heads": 2, "caption_channels": 48, "num_layers": 2,
}  # fmt: skip
HIDREAM = {
    "image_model": "hidream", "patch_size": 2, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 64, "num_attention_heads": 1, "caption_channels": [32, 48], "text_emb_dim": 40,
    "num_routed_experts": 12, "num_activated_experts": 1, "axes_dims_rope": (32, 16, 16), "llama_layers": [0, 1],
}  # fmt: skip


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Random values for every parameter, of a size that keeps signals about as large as they come."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() >= 2:
                gain = 1 / math.sqrt(math.prod(parameter.shape[1:]))
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain)
            elif name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
            else:
                parameter.fill_(1.0)


def model(kind: str, unet_config: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A ModelPatcher of the class ``comfy.supported_models.<kind>`` with random weights, on the CPU."""
    config = getattr(comfy.supported_models, kind)(unet_config)
    config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32, device=CPU)
    base = config.get_model({}, "")
    fill(base.diffusion_model, seed)
    return comfy.model_patcher.CoreModelPatcher(base, load_device=CPU, offload_device=CPU)


def unet(seed: int = 0) -> Any:
    """Stable Diffusion's UNet with cross-attention."""
    return model("SD15", UNET, seed)


def unet_controlnet(seed: int = 3) -> Any:
    """A ControlNet for `unet`, whose zero convolutions are not zero."""
    config = {key: value for key, value in UNET.items() if key != "out_channels"}
    control = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    fill(control, seed)
    return comfy.controlnet.ControlNet(control, load_device=CPU)


def wan(dtype: torch.dtype = torch.float32) -> Any:
    """Wan 2.1, text to video."""
    return model("WAN21_T2V", WAN, dtype=dtype)


def ltxv() -> Any:
    """LTX-Video."""
    return model("LTXV", LTX)


def hidream() -> Any:
    """HiDream with more routed experts than a small picture has use for."""
    return model("HiDream", HIDREAM)


def text(tokens: int, width: int, seed: int = 1, **more: Any) -> list[list[Any]]:
    """What a text encoder would give."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, width, generator=generator), more]]
