"""Model families as data: by which keys each is recognised, and which of its weights must never be packed.

ComfyUI builds a model from the *shapes* of some weights, and NVFP4 halves the second side of the stored
shape: these are the ``guard``. Other two-dimensional weights belong to modules that are no Linear
(embedding tables, routers, layers with arithmetic of their own), whose loader knows no packed weights:
these are ``not_linear``. Both lists were found by trial on ComfyUI 0.33.0's own model classes;
``tests/comfy/test_families_in_comfyui.py`` repeats the trial. The conditions and their order are those of
``comfy/model_detection.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signature:
    """A family is recognised when every pattern of ``needs`` matches some key and every shape fits.

    ``shapes`` maps keys to the shape that they must have where it is known; ``guard`` and
    ``not_linear`` are patterns of layer names. All patterns match whole names without prefix.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    guard: tuple[str, ...] = ()
    not_linear: tuple[str, ...] = ()
    recipe: str = "generic"
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


_KEY_NORM = r"double_blocks\.0\.img_attn\.norm\.key_norm\.(weight|scale)"
_DIFFUSERS = "a diffusers file, whose layers ComfyUI joins while it loads them; take the single-file release"

SIGNATURES = (
    Signature(
        "sd3",
        "Stable Diffusion 3 / 3.5",
        (r"joint_blocks\.0\.context_block\.attn\.qkv\.weight",),
        (r"context_embedder", r"y_embedder\.mlp\.0"),
        recipe="sd3",
    ),
    Signature(
        "hunyuan-video",
        "HunyuanVideo / HunyuanImage",
        (r"txt_in\.individual_token_refiner\.blocks\.0\.norm1\.weight",),
        (r"txt_in\.input_embedder",),
        (r"cond_type_embedding",),
        "hunyuan-video",
    ),
    Signature(
        "flux2",
        "Flux.2",
        (r"double_stream_modulation_img\.lin\.weight", r"img_in\.weight"),
        (r"img_in", r"txt_in"),
        recipe="flux",
    ),
    Signature(
        "chroma", "Chroma", (r"distilled_guidance_layer\.(0\.)?norms\.0\..*", _KEY_NORM), (r"txt_in",), recipe="flux"
    ),
    Signature(
        "flux",
        "Flux.1",
        (_KEY_NORM, r"img_in\.weight"),
        (r"img_in", r"txt_in", r"vector_in\.in_layer"),
        recipe="flux",
    ),
    Signature(
        "ltx",
        "LTX-Video / LTX-2",
        (r"adaln_single\.emb\.timestep_embedder\.linear_1\.bias", r"patchify_proj\.weight"),
        (r"transformer_blocks\.0\.attn2\.to_k",),
        recipe="ltx-2",
    ),
    Signature(
        "cosmos1",
        "Cosmos 1.0",
        (r"blocks\.block0\.blocks\.0\.block\.attn\.to_q\.0\.weight",),
        (r"x_embedder\.proj\.1",),
        recipe="cosmos",
    ),
    Signature(
        "z-image",
        "Z-Image",
        (
            r"cap_embedder\.1\.weight",
            r"noise_refiner\.0\.attention\.k_norm\.weight",
            r"layers\.0\.adaLN_modulation\.0\.weight",
        ),
        (r"cap_embedder\.1", r"x_embedder", r"dec_net\.input_embedder\.embedder\.0"),
        recipe="z-image-base",
    ),
    Signature(
        "lumina2",
        "Lumina 2",
        (r"cap_embedder\.1\.weight", r"noise_refiner\.0\.attention\.k_norm\.weight"),
        (r"cap_embedder\.1",),
        recipe="lumina2",
    ),
    Signature(
        "wan",
        "Wan 2.1 / 2.2",
        (r"head\.modulation", r"blocks\.0\.self_attn\.q\.weight"),
        not_linear=(r"motion_encoder\..*", r"trainable_cond_mask"),
        recipe="wan",
    ),
    Signature(
        "hidream",
        "HiDream",
        (r"caption_projection\.0\.linear\.weight", r"double_stream_blocks\.0\..*"),
        not_linear=(r".*\.ff_i\.gate",),
        recipe="hidream",
    ),
    Signature(
        "anima",
        "Anima",
        (r"blocks\.0\.mlp\.layer1\.weight", r"llm_adapter\.blocks\.0\.cross_attn\.q_proj\.weight"),
        (r"x_embedder\.proj\.1",),
        (r"llm_adapter\.embed",),
        "anima",
    ),
    Signature(
        "cosmos",
        "Cosmos Predict2",
        (r"blocks\.0\.mlp\.layer1\.weight", r"x_embedder\.proj\.1\.weight"),
        (r"x_embedder\.proj\.1",),
        recipe="cosmos",
    ),
    Signature(
        "qwen-image",
        "Qwen-Image / Edit / Layered",
        (r"transformer_blocks\.0\.img_mod\.1\.weight", r"txt_norm\.weight", r"img_in\.weight"),
        (r"img_in",),
        (r"time_text_embed\.addition_t_embedding",),
        "qwen-image-v3",
        (("txt_norm.weight", (3584,)),),
    ),
    Signature(
        "krea2",
        "Krea-2",
        (r"first\.weight", r"txtfusion\.projector\.weight"),
        (r"first", r"txtfusion\.projector"),
        recipe="krea2",
    ),
    Signature(
        "ernie-image",
        "ERNIE-Image",
        (r"layers\.0\.mlp\.linear_fc2\.weight", r"layers\.0\.self_attention\.to_q\.weight"),
        recipe="ernie-image",
    ),
    Signature(
        "unet",
        "UNet (SD 1.5, SDXL)",
        (r"input_blocks\.0\.0\.weight",),
        (r".*\.transformer_blocks\.0\.attn2\.to_k", r"label_emb\..*"),
    ),
    Signature(
        "diffusers", _DIFFUSERS, (r"transformer_blocks\.0\.attn\.add_q_proj\.weight", r"x_embedder\.weight"), (r".*",)
    ),
    Signature(
        "diffusers",
        _DIFFUSERS,
        (r"transformer_blocks\.0\.attn\.add_q_proj\.weight", r"pos_embed\.proj\.weight"),
        (r".*",),
    ),
    Signature("diffusers", _DIFFUSERS, (r"noise_refiner\.0\.attention\.norm_k\.weight",), (r".*",)),
    Signature("diffusers", _DIFFUSERS, (r"joint_transformer_blocks\.0\.attn\.add_k_proj\.weight",), (r".*",)),
    Signature(
        "diffusers",
        _DIFFUSERS,
        (r"adaln_single\.emb\.timestep_embedder\.linear_1\.bias", r"pos_embed\.proj\.bias"),
        (r".*",),
    ),
    Signature("diffusers", _DIFFUSERS, (r"down_blocks\.0\.resnets\.0\.conv1\.weight",), (r".*",)),
)

WITHOUT_RECIPE = (
    # AuraFlow, HunyuanDiT, Ideogram 4, Kandinsky 5, MiniMax H3
    r"cond_seq_linear",
    r"extra_embedder\.0",
    r"input_proj",
    r"visual_embeddings\.in_layer",
    r"condition_proj",
    r"time_embedder\.proj_in",
    # CogVideoX
    r"blocks\.0\.norm1\.linear",
    r"patch_embed\.(proj|text_proj)",
    r"ofs_embedding_linear_1",
    # Hunyuan3D, PixelDiT (its loader splits these rows), PiD
    r"latent_in",
    r"cond_in",
    r"(.*\.)?pixel_blocks\..*\.adaLN_modulation\.0",
    r"lq_proj\..*",
    # Stable Audio
    r"to_(global|cond)_embed\.0",
    r"transformer\.project_in",
    r"transformer\.layers\.0\.(self_attn\.to_qkv|to_local_embed\.0)",
)
"""What ComfyUI reads in the models that it knows and that have no family here.

Found by the same trial, but for Stable Audio, PixelDiT and PiD, which do not build without weights:
those are read from its source.
"""

NOT_LINEAR = (
    # HunyuanDiT, Ideogram 4, Hunyuan3D 2.1, ACE-Step, MiniMax Music
    r"style_embedder",
    r"embed_image_indicator",
    r".*\.moe\.gate",
    r"lyric_embs",
    r"diffusion_transformer\.timestep_features",
)
"""What these models hold in no Linear."""
