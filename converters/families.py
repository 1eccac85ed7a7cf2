"""Which model a checkpoint holds, told from its key names, and which of its keys must never be packed.

ComfyUI builds a model from the *shapes* of some weights. NVFP4 halves the second side of the stored
shape, so these keys keep an unpacked format in every recipe: the guard list. It was read from
``comfy/model_detection.py`` of ComfyUI 0.33.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PREFIXES = ("model.diffusion_model.", "model.model.", "net.")
"""The loader's candidates, in its order; the one with the most keys (more than 5) wins."""
TEXT_ENCODER_PREFIXES = ("text_encoders.", "cond_stage_model.", "conditioner.")
OTHER_PREFIXES = ("vae.", "first_stage_model.", "vocoder.", "audio_vae.", "clip_vision.")


@dataclass(frozen=True)
class Signature:
    """A family as data: it is recognised when every pattern of ``needs`` matches some key."""

    name: str
    title: str
    needs: tuple[str, ...]
    guard: tuple[str, ...]
    recipe: str = "generic"


@dataclass(frozen=True)
class Family:
    """What was recognised. ``prefix`` is that of the diffusion model's keys, possibly empty."""

    name: str
    title: str
    prefix: str
    default_recipe: str
    guard: tuple[str, ...]

    def guards(self, layer: str) -> bool:
        """True when ComfyUI reads the shape of this layer's weight (``layer`` without prefix)."""
        return any(re.fullmatch(pattern, layer) for pattern in self.guard)


SIGNATURES = (
    Signature(
        "flux2",
        "Flux.2",
        (r"double_stream_modulation_img\.lin\.weight", r"img_in\.weight"),
        (r"img_in", r"txt_in", r"vector_in\.in_layer"),
        "flux",
    ),
    Signature(
        "chroma",
        "Chroma",
        (r"distilled_guidance_layer\..*", r"double_blocks\.0\.img_attn\.qkv\.weight"),
        (r"img_in", r"txt_in", r"vector_in\.in_layer"),
        "flux",
    ),
    Signature(
        "flux",
        "Flux.1",
        (r"double_blocks\.0\.img_attn\.norm\.key_norm\.(weight|scale)", r"img_in\.weight"),
        (r"img_in", r"txt_in", r"vector_in\.in_layer"),
        "flux",
    ),
    Signature(
        "qwen-image",
        "Qwen-Image / Edit / Layered",
        (r"transformer_blocks\.0\.img_mod\.1\.weight", r"txt_norm\.weight", r"img_in\.weight"),
        (r"img_in",),
        "qwen-image-v3",
    ),
    Signature(
        "z-image",
        "Z-Image / Lumina 2",
        (r"cap_embedder\.1\.weight", r"layers\.0\.attention\..*"),
        (r"cap_embedder\.1",),
    ),
    Signature(
        "sd3",
        "Stable Diffusion 3",
        (r"joint_blocks\.0\.x_block\.attn\.qkv\.weight",),
        (r"context_embedder", r"y_embedder\.mlp\.0"),
    ),
    Signature(
        "hunyuan-video",
        "HunyuanVideo",
        (r"txt_in\.individual_token_refiner\.blocks\.0\..*",),
        (r"txt_in\.input_embedder",),
    ),
    Signature(
        "ltx",
        "LTX-Video / LTX-2",
        (r"patchify_proj\.weight", r"transformer_blocks\.0\.attn2\.to_k\.weight"),
        (r"transformer_blocks\.0\.attn2\.to_k",),
    ),
    Signature("wan", "Wan 2.1 / 2.2", (r"blocks\.0\.self_attn\.q\.weight", r"blocks\.0\.ffn\.0\.weight"), ()),
    Signature(
        "cosmos", "Cosmos / Anima", (r"x_embedder\.proj\.1\.weight", r"blocks\.0\..*"), (r"x_embedder\.proj\.1",)
    ),
    Signature("hidream", "HiDream", (r"caption_projection\.0\.linear\.weight",), ()),
    Signature(
        "krea2", "Krea-2", (r"first\.weight", r"txtfusion\.projector\.weight"), (r"first", r"txtfusion\.projector")
    ),
    Signature(
        "unet",
        "UNet (SD 1.5, SDXL)",
        (r"input_blocks\.0\.0\.weight",),
        (r".*\.transformer_blocks\.0\.attn2\.to_k", r"label_emb\..*"),
    ),
)

GUARDED_EVERYWHERE = tuple(
    sorted({pattern for signature in SIGNATURES for pattern in signature.guard} | {"input_proj"})
)
"""An unknown model gets every family's guard: keeping a few small layers costs next to nothing."""


def detect_prefix(names: Iterable[str]) -> str:
    """Return the diffusion model's key prefix as ComfyUI's loader would choose it."""
    names = list(names)
    counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in PREFIXES}
    best = max(PREFIXES, key=lambda prefix: counts[prefix])
    if counts[best] > 5:
        return best
    inside = [name for name in names if not name.startswith(TEXT_ENCODER_PREFIXES + OTHER_PREFIXES)]
    return "model." if inside and all(name.startswith("model.") for name in inside) else ""


def detect_family(names: Iterable[str]) -> Family:
    """Recognise the model of a checkpoint from its tensor names.

    A model that no signature matches is the family ``generic``, which is a valid answer.
    """
    names = list(names)
    prefix = detect_prefix(names)
    keys = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    for signature in SIGNATURES:
        if all(any(re.fullmatch(pattern, key) for key in keys) for pattern in signature.needs):
            return Family(signature.name, signature.title, prefix, signature.recipe, signature.guard)
    return Family("generic", "unknown model", prefix, "generic", GUARDED_EVERYWHERE)


def component(name: str, prefix: str) -> str:
    """Tell the part of an all-in-one file that a tensor belongs to.

    Returns:
        ``diffusion_model``, ``text_encoder`` or ``other`` (VAE and everything unknown).
    """
    if prefix and name.startswith(prefix):
        return "diffusion_model"
    if name.startswith(TEXT_ENCODER_PREFIXES):
        return "text_encoder"
    if prefix or name.startswith(OTHER_PREFIXES):
        return "other"
    return "diffusion_model"
