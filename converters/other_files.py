"""Files of weights that are no diffusion model and no text encoder, told from all of their key names."""

from __future__ import annotations

import re
from collections.abc import Collection

_LOW_RANK = re.compile(r"(^|[._])(lora|lokr|hada|oft)[._]")
"""One of the factors of a LoRA, LoKr, LoHa or OFT, or any key under kohya's ``lora_unet_``."""
_BESIDE = re.compile(r"\.(alpha|dora_scale|diff|diff_b|reshape_weight)$")
"""What such a file holds beside the factors: their scales, and differences of whole tensors."""
_VAE_PREFIX = re.compile(r"^(first_stage_model|vae)\.")
_VAE_ENDS = ("decoder.conv_in.", "decoder.conv1.", "encoder.conv_in.")
_VAE_PARTS = {
    "encoder", "decoder", "quant_conv", "post_quant_conv", "conv1", "conv2", "bn", "per_channel_statistics", "loss", "logvar"
}  # fmt: skip


def is_lora(names: Collection[str]) -> bool:
    """True when every tensor belongs to a LoRA or a relative of it; one weight of a model's own makes it none."""
    return any(_LOW_RANK.search(name) for name in names) and all(
        _LOW_RANK.search(name) or _BESIDE.search(name) for name in names
    )


def is_vae(names: Collection[str]) -> bool:
    """True when every tensor belongs to a VAE, whose coder begins with a convolution at the top of the file."""
    inside = [_VAE_PREFIX.sub("", name) for name in names]
    return any(name.startswith(_VAE_ENDS) for name in inside) and all(
        name.partition(".")[0] in _VAE_PARTS for name in inside
    )
