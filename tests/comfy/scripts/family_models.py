"""Which models of ComfyUI stand for each family: what its detection needs to see, at true widths and depths.

A seed holds only the keys that ``comfy.model_detection`` asks for. The script builds ComfyUI's own model from
what is detected there, on the meta device, and takes the key layout from that model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

Shape = tuple[int, ...]
ANY: Shape = (1,)


@dataclass(frozen=True)
class DiffusionModel:
    """``seed``: keys and shapes; ``config``: a whole configuration where detection needs a whole model.

    ``published``: parts of names in the module tree and in the file, where ComfyUI renames them while it loads.
    """

    seed: dict[str, Shape] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    published: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TextEncoder:
    """``model``: a class below ``comfy.text_encoders``; ``config``: a JSON file beside it, or None.

    ``published``: the model's own names carry ``model.language_model.`` and ``model.visual.``, as on Hugging Face.
    """

    model: str
    config: str | None = None
    published: bool = False


def blocks(stack: str, count: int, key: str = "x") -> dict[str, Shape]:
    return {f"{stack}.{index}.{key}": ANY for index in range(count)}


def flux(hidden: int, context: int, channels: int, double: int, single: int, **more: Shape) -> DiffusionModel:
    seed = {"img_in.weight": (hidden, channels), "txt_in.weight": (hidden, context), **_dotted(more)}
    seed |= blocks("double_blocks", double, "img_attn.norm.key_norm.weight")
    return DiffusionModel(seed | blocks("single_blocks", single))


def lumina(dim: int, caption: int, layers: int, **more: Shape) -> DiffusionModel:
    seed = {"cap_embedder.1.weight": (dim, caption), "noise_refiner.0.attention.k_norm.weight": ANY}
    return DiffusionModel(seed | blocks("layers", layers) | _dotted(more))


def wan(dim: int, ffn: int, channels: int, depth: int, out: int = 64, **more: Shape) -> DiffusionModel:
    seed = {"head.modulation": (1, 2, dim), "head.head.weight": (out, dim), "blocks.0.ffn.0.weight": (ffn, dim)}
    seed["patch_embedding.weight"] = (dim, channels, 1, 2, 2)
    return DiffusionModel(seed | blocks("blocks", depth) | _dotted(more))


def hunyuan(
    hidden: int, channels: int, patch: Shape, context: int, out: int, depths: tuple[int, int], **more: Shape
) -> DiffusionModel:
    seed = {
        "txt_in.individual_token_refiner.blocks.0.norm1.weight": ANY,
        "img_in.proj.weight": (hidden, channels, *patch),
    }
    seed |= {"final_layer.linear.weight": (out, hidden), "txt_in.input_embedder.weight": (hidden, context)}
    seed |= blocks("double_blocks", depths[0]) | blocks("single_blocks", depths[1])
    return DiffusionModel(seed | _dotted(more))


def sd3(depth: int, **more: Shape) -> DiffusionModel:
    width = 64 * depth
    seed = {"joint_blocks.0.context_block.attn.qkv.weight": ANY, "x_embedder.proj.weight": (width, 16, 2, 2)}
    seed |= {"final_layer.linear.weight": (64, width), "y_embedder.mlp.0.weight": (width, 2048)}
    seed |= {"context_embedder.weight": (width, 4096), "pos_embed": (1, 36864, width)}
    return DiffusionModel(seed | _dotted(more))


def ltx(width: int, depth: int, metadata: dict[str, str], **more: Shape) -> DiffusionModel:
    seed = {"adaln_single.emb.timestep_embedder.linear_1.bias": ANY} | blocks("transformer_blocks", depth)
    seed["transformer_blocks.0.attn2.to_k.weight"] = (width, width)
    return DiffusionModel(seed | _dotted(more), metadata=metadata)


def qwen(**more: Shape) -> DiffusionModel:
    seed = {"txt_norm.weight": (3584,), "proj_out.weight": (64, 3072), "img_in.weight": (3072, 64)}
    return DiffusionModel(seed | blocks("transformer_blocks", 60) | _dotted(more))


def predict2(width: int, channels: int, depth: int, **more: Shape) -> DiffusionModel:
    seed = {"blocks.0.mlp.layer1.weight": ANY, "x_embedder.proj.1.weight": (width, (channels + 1) * 4)}
    return DiffusionModel(seed | blocks("blocks", depth) | _dotted(more))


def _dotted(keys: dict[str, Shape]) -> dict[str, Shape]:
    """``a__b=…`` as ``a.b.weight``; a name that says what it is stays as it is."""
    dotted = {key.replace("__", "."): shape for key, shape in keys.items()}
    plain = (".bias", ".weight", "_token", "emb_pos")
    return {key if key.endswith(plain) else f"{key}.weight": shape for key, shape in dotted.items()}


TENCENT = (
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("_attn.norm.query_norm.", "_attn_q_norm."),
    ("_attn.norm.key_norm.", "_attn_k_norm."),
    ("_mod.lin.", "_mod.linear."),
    (".modulation.lin.", ".modulation.linear."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.2.", "mlp.fc2."),
    ("embedder.in_layer.", "embedder.mlp.0."),
    ("embedder.out_layer.", "embedder.mlp.2."),
    ("c_embedder.mlp.0.", "c_embedder.linear_1."),
    ("c_embedder.mlp.2.", "c_embedder.linear_2."),
    ("_in.in_layer.", "_in.mlp.0."),
    ("_in.out_layer.", "_in.mlp.2."),
)
"""HunyuanVideo's names in Tencent's own files."""
GUIDANCE: dict[str, Shape] = {"guidance_in__in_layer": ANY}
VECTOR: dict[str, Shape] = {"vector_in__in_layer": (3072, 768)}
GLOBAL: dict[str, Shape] = {"double_stream_modulation_img__lin": ANY}
IMAGE: dict[str, Shape] = {"img_emb__proj__0__bias": ANY}
CONFIG = {"config": '{"transformer": {"timestep_scale_multiplier": 500.0}}'}
SDXL = {
    "use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
    "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10, "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
    "num_classes": "sequential", "adm_in_channels": 2816, "use_temporal_resblock": False, "use_temporal_attention": False,
}  # fmt: skip

DIFFUSION_MODELS: dict[str, DiffusionModel] = {
    "flux-dev": flux(3072, 4096, 64, 19, 38, **GUIDANCE, **VECTOR),
    "flux-schnell": flux(3072, 4096, 64, 19, 38, **VECTOR),
    "flux-fill": flux(3072, 4096, 384, 19, 38, **GUIDANCE, **VECTOR),
    "flux-ovis": flux(3072, 2048, 64, 6, 27, double_blocks__0__img_mlp__gate_proj=ANY, txt_norm=ANY),
    "flux-longcat": flux(3072, 3584, 64, 10, 20),
    "flux2-dev": flux(6144, 15360, 128, 8, 48, **GUIDANCE, **GLOBAL),
    "flux2-klein-4b": flux(3072, 7680, 128, 5, 20, **GLOBAL),
    "flux2-klein-9b": flux(4096, 12288, 128, 8, 24, **GLOBAL),
    "chroma": flux(3072, 4096, 64, 19, 38, distilled_guidance_layer__norms__0=ANY),
    "chroma-radiance": flux(
        3072, 4096, 64, 19, 38, distilled_guidance_layer__norms__0=ANY, nerf_blocks__0__norm=ANY, img_in_patch=(3072, 3, 16, 16)
    ),
    "qwen-image": qwen(),
    "qwen-image-layered": qwen(time_text_embed__addition_t_embedding=(2, 3072)),
    "z-image": lumina(3840, 2560, 30, cap_pad_token=ANY),
    "z-image-omni": lumina(3840, 2560, 30, cap_pad_token=ANY, siglip_embedder__0=(1152,)),
    "z-image-pixel": lumina(
        3840, 2560, 30, cap_pad_token=ANY, dec_net__cond_embed=(3840, 3840), x_embedder=(3840, 3072),
        dec_net__final_layer__linear=(3072, 3840), dec_net__input_embedder__embedder__0=(3840, 3136),
        dec_net__res_blocks__0__x=ANY,
    ),
    "lumina2": lumina(2304, 2304, 26),
    "lumina2-newbie": lumina(2304, 2560, 36, clip_text_pooled_proj__0=(1024,)),
    "wan-t2v-1.3b": wan(1536, 8960, 16, 30),
    "wan-t2v-14b": wan(5120, 13824, 16, 40),
    "wan-i2v-14b": wan(5120, 13824, 36, 40, **IMAGE),
    "wan-flf-14b": wan(5120, 13824, 36, 40, **IMAGE, img_emb__emb_pos=(1, 514, 1280)),
    "wan2.2-i2v-14b": wan(5120, 13824, 36, 40),
    "wan2.2-ti2v-5b": wan(3072, 14336, 48, 30, out=192),
    "wan-vace-14b": wan(5120, 13824, 16, 40, vace_patch_embedding=(5120, 96, 1, 2, 2), **blocks("vace_blocks", 8)),
    "wan-camera-14b": wan(5120, 13824, 32, 40, **IMAGE, control_adapter__conv=ANY),
    "wan2.2-camera-14b": wan(5120, 13824, 36, 40, control_adapter__conv=ANY),
    "wan-scail2-14b": wan(5120, 13824, 20, 40, **IMAGE, patch_embedding_mask=ANY),
    "wan-dancer-14b": wan(5120, 13824, 36, 40, **IMAGE, patch_embedding_global=ANY),
    "wan-s2v-14b": wan(5120, 13824, 16, 40, casual_audio_encoder__encoder__final_linear=ANY),
    "wan-humo-17b": wan(5120, 13824, 36, 40, audio_proj__audio_proj_glob_1__layer__bias=ANY),
    "wan-animate-14b": wan(5120, 13824, 36, 40, **IMAGE, face_adapter__fuser_blocks__0__k_norm=ANY),
    "wan-scail-14b": wan(5120, 13824, 20, 40, **IMAGE, patch_embedding_pose=ANY),
    "ltxv-2b": ltx(2048, 28, {}),
    "ltxv-13b": ltx(4096, 48, CONFIG),
    "ltx-2-19b": ltx(4096, 48, CONFIG, audio_adaln_single__linear=ANY),
    "sd3-medium": sd3(24),
    "sd3.5-medium": sd3(24, joint_blocks__0__context_block__attn__ln_q=ANY, **blocks("joint_blocks", 13, "x_block.attn2.qkv.weight")),
    "sd3.5-large": sd3(38, joint_blocks__0__context_block__attn__ln_q=ANY),
    "hunyuan-video": hunyuan(3072, 16, (1, 2, 2), 4096, 64, (20, 40), vector_in__x=ANY, **GUIDANCE),
    "hunyuan-video-tencent": replace(
        hunyuan(3072, 16, (1, 2, 2), 4096, 64, (20, 40), vector_in__x=ANY, **GUIDANCE), published=TENCENT
    ),
    "hunyuan-video-i2v": hunyuan(3072, 33, (1, 2, 2), 4096, 64, (20, 40), vector_in__x=ANY),
    "hunyuan-video-1.5": hunyuan(
        2048, 65, (1, 1, 1), 3584, 32, (54, 2), byt5_in__fc1=ANY, cond_type_embedding=(3, 2048), vision_in__proj__0=(1152,)
    ),
    "hunyuan-image-2.1": hunyuan(3584, 64, (1, 1), 3584, 64, (20, 40), byt5_in__fc1=ANY, **GUIDANCE),
    "hidream": DiffusionModel({"caption_projection.0.linear.weight": ANY}),
    "anima": predict2(2048, 16, 28, llm_adapter__blocks__0__cross_attn__q_proj=ANY),
    "cosmos-predict2-2b": predict2(2048, 16, 28),
    "cosmos-predict2-14b-i2v": predict2(5120, 17, 36),
    "cosmos1-7b": DiffusionModel(
        {"blocks.block0.blocks.0.block.attn.to_q.0.weight": (4096, 4096), "x_embedder.proj.1.weight": (4096, 68)}
    ),
    "krea2": DiffusionModel(
        {"txtfusion.projector.weight": (1, 4), "first.weight": (6144, 64), "blocks.0.attn.wq.weight": (6144, 6144)}
        | {"blocks.0.attn.wk.weight": (1536, 6144), "txtfusion.layerwise_blocks.0.prenorm.scale": (2560,)}
        | blocks("blocks", 28)
    ),
    "ernie-image": DiffusionModel({"layers.0.mlp.linear_fc2.weight": ANY}),
    "sdxl": DiffusionModel(config=SDXL),
    # Models without a family here: the guard of the generic recipe must suffice for them.
    "auraflow": DiffusionModel(
        {"double_layers.0.attn.w1q.weight": ANY, "positional_encoding": (1, 4096, 3072), "cond_seq_linear.weight": (3072, 2048)}
        | blocks("double_layers", 4) | blocks("single_layers", 32)
    ),
    "pixart": DiffusionModel({"t_block.1.weight": ANY, "y_embedder.y_embedding": (300, 4096)} | blocks("blocks", 28)),
    "hunyuan-dit": DiffusionModel(
        {"mlp_t5.0.weight": ANY, "x_embedder.proj.weight": (1408, 4, 2, 2), "extra_embedder.0.weight": (5632, 3968)}
        | blocks("blocks", 40)
    ),
    "mochi": DiffusionModel({"t5_yproj.weight": ANY}),
    "omnigen2": DiffusionModel({"time_caption_embed.timestep_embedder.linear_1.bias": ANY}),
    "lens": DiffusionModel(
        {"transformer_blocks.0.attn.norm_added_q.weight": ANY, "transformer_blocks.0.img_mlp.w1.weight": ANY}
        | {"img_in.weight": (1536, 128), "proj_out.weight": (128, 1536), "txt_norm.0.weight": (2880,)}
        | blocks("transformer_blocks", 8)
    ),
    "mage-flow": DiffusionModel(
        {"txt_norm.weight": (2560,), "proj_out.weight": (128, 3072)} | blocks("transformer_blocks", 8)
    ),
    "ideogram4": DiffusionModel(
        {"embed_image_indicator.weight": ANY, "input_proj.weight": (3072, 128)} | blocks("layers", 8)
    ),
    "kandinsky5": DiffusionModel(
        {"visual_transformer_blocks.0.cross_attention.key_norm.weight": ANY, "visual_embeddings.in_layer.bias": (1792,)}
        | {"time_embeddings.in_layer.bias": (512,), "visual_embeddings.in_layer.weight": (1792, 132)}
        | {"visual_transformer_blocks.0.feed_forward.in_layer.weight": (7168, 1792)}
        | blocks("text_transformer_blocks", 2) | blocks("visual_transformer_blocks", 8)
    ),
    "cogvideox-1.5": DiffusionModel(
        {"blocks.0.norm1.linear.weight": (18432, 512), "patch_embed.proj.weight": (3072, 256)}
        | {"patch_embed.text_proj.weight": (3072, 4096), "ofs_embedding_linear_1.weight": (512, 512)}
        | blocks("blocks", 8)
    ),
    "hunyuan3d-2": DiffusionModel(
        {"latent_in.weight": (1024, 64), "cond_in.weight": (1024, 1536)}
        | blocks("double_blocks", 8) | blocks("single_blocks", 16)
    ),
    "hunyuan3d-2.1": DiffusionModel(
        {"t_embedder.mlp.2.weight": ANY, "blocks.0.attn1.k_norm.weight": ANY, "x_embedder.weight": (2048, 64)}
        | blocks("blocks", 21)
    ),
    "ace-step": DiffusionModel({"genre_embedder.weight": ANY}),
    "minimax-h3": DiffusionModel(
        {"video_patch_proj.weight": (4096, 64), "audio_patch_proj.weight": (4096, 64), "rope.inv_freq": (64,)}
        | {"final_layer.video_out.weight": (64, 4096), "final_layer.audio_out.weight": (64, 4096)}
        | {"blocks.0.attn.q_norm.weight": (128,), "blocks.0.attn.qkv_proj.weight": (12288, 4096)}
        | {"blocks.0.mlp.fc1.weight": (16384, 4096), "condition_proj.weight": (4096, 5120)}
        | {"time_embedder.proj_in.weight": (1024, 256), "time_embedder.proj_out.weight": (4096, 1024)}
        | blocks("blocks", 8) | blocks("token_refiner.blocks", 2)
    ),
    "boogu": DiffusionModel(
        {"double_stream_layers.0.img_instruct_attn.processor.img_to_q.weight": ANY, "x_embedder.weight": (3360, 64)}
        | {"time_caption_embed.caption_embedder.0.weight": (4096,)} | blocks("single_stream_layers", 8)
        | blocks("double_stream_layers", 8) | blocks("noise_refiner", 2)
    ),
    "joyimage": DiffusionModel(
        {"double_blocks.0.attn.img_attn_qkv.weight": ANY, "double_blocks.0.attn.img_attn_q_norm.weight": (128,)}
        | {"condition_embedder.time_embedder.linear_1.weight": ANY, "img_in.weight": (4096, 16, 1, 2, 2)}
        | blocks("double_blocks", 8)
    ),
    "trellis2": DiffusionModel({"img2shape.t_embedder.mlp.0.weight": ANY}),
    "triposplat": DiffusionModel({"cam_out_layer.weight": ANY, "repo_layers.0.final_map.weight": ANY}),
    "minimax-music3": DiffusionModel(
        {"cond_layer_logits": ANY, "latent_conditioners.0.weight": ANY}
        | {"diffusion_transformer.transformer.layers.0.self_attn.to_qkv.weight": ANY}
    ),
    "hidream-o1": DiffusionModel({"t_embedder1.mlp.0.weight": ANY, "x_embedder.proj1.weight": ANY}),
}  # fmt: skip

TEXT_ENCODERS: dict[str, TextEncoder] = {
    "t5-xxl": TextEncoder("t5.T5", "t5_config_xxl.json"),
    "umt5-xxl": TextEncoder("t5.T5", "umt5_config_xxl.json"),
    "t5-xxl-old": TextEncoder("t5.T5", "t5_old_config_xxl.json"),
    "qwen2.5-vl-7b": TextEncoder("llama.Qwen25_7BVLI"),
    "qwen2.5-vl-3b": TextEncoder("llama.Qwen25_3B"),
    "qwen3-0.6b": TextEncoder("llama.Qwen3_06B"),
    "qwen3-4b": TextEncoder("llama.Qwen3_4B"),
    "qwen3-8b": TextEncoder("llama.Qwen3_8B"),
    "qwen3-vl-8b": TextEncoder("qwen3vl.Qwen3VL", published=True),
    "qwen3.5-2b": TextEncoder("qwen35.Qwen35", published=True),
    "gemma-2-2b": TextEncoder("llama.Gemma2_2B"),
    "gemma-3-4b": TextEncoder("llama.Gemma3_4B"),
    "gemma-3-4b-vision": TextEncoder("llama.Gemma3_4B_Vision"),
    "gemma-3-12b": TextEncoder("llama.Gemma3_12B"),
    "gemma-4-e4b": TextEncoder("gemma4.Gemma4_E4B"),
    "gemma-4-12b": TextEncoder("gemma4.Gemma4_12B"),
    "mistral-3-24b": TextEncoder("llama.Mistral3Small24B"),
    "ministral-3-3b": TextEncoder("llama.Ministral3_3B"),
    "llama-3-8b": TextEncoder("llama.Llama2"),
}
