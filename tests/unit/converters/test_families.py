"""Families by keys and shapes, prefixes as the loader chooses them, and the guard list.

``tests/comfy/test_families_in_comfyui.py`` proves the same on ComfyUI's own model classes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import PlanError, available_recipes, make_plan, open_source
from nvfp4_studio.converters.encoder_signatures import TEXT_ENCODERS
from nvfp4_studio.converters.families import component, detect_family, detect_prefix
from nvfp4_studio.converters.signatures import SIGNATURES

KEY_NORM = "double_blocks.0.img_attn.norm.key_norm.scale"
PREDICT2 = ["blocks.0.mlp.layer1.weight", "x_embedder.proj.1.weight"]
LUMINA = ["cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight"]
ADALN = "adaln_single.emb.timestep_embedder.linear_1.bias"
KEYS = {
    "sd3": ["joint_blocks.0.context_block.attn.qkv.weight", "joint_blocks.0.x_block.attn.qkv.weight"],
    "hunyuan-video": ["txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_attn.qkv.weight"],
    "flux2": ["double_stream_modulation_img.lin.weight", "img_in.weight", KEY_NORM],
    "chroma": ["distilled_guidance_layer.norms.0.scale", "img_in.weight", KEY_NORM],
    "flux": ["img_in.weight", KEY_NORM],
    "ltx": [ADALN, "patchify_proj.weight", "transformer_blocks.0.attn2.to_k.weight"],
    "cosmos1": ["blocks.block0.blocks.0.block.attn.to_q.0.weight", "x_embedder.proj.1.weight"],
    "z-image": [*LUMINA, "layers.0.adaLN_modulation.0.weight"],
    "lumina2": [*LUMINA, "layers.0.adaLN_modulation.1.weight"],
    "wan": ["head.modulation", "blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"],
    "hidream": ["caption_projection.0.linear.weight", "double_stream_blocks.0.block.ff_i.gate.weight"],
    "anima": [*PREDICT2, "llm_adapter.blocks.0.cross_attn.q_proj.weight"],
    "cosmos": PREDICT2,
    "qwen-image": ["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight", "img_in.weight"],
    "krea2": ["first.weight", "txtfusion.projector.weight"],
    "ernie-image": ["layers.0.mlp.linear_fc2.weight", "layers.0.self_attention.to_q.weight"],
    "unet": ["input_blocks.0.0.weight"],
    "generic": ["stages.0.conv.weight"],
}
LAYER = "model.layers.0."
ENCODERS = {
    "t5": ["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"],
    "gemma": [f"{LAYER}post_feedforward_layernorm.weight", f"{LAYER}self_attn.q_norm.weight"],
    "qwen2.5-vl": [f"{LAYER}self_attn.k_proj.bias", f"{LAYER}post_attention_layernorm.weight"],
    "qwen3.5": [f"{LAYER}linear_attn.A_log", f"{LAYER}post_attention_layernorm.weight", f"{LAYER}mlp.gate_proj.weight"],
    "qwen3": [f"{LAYER}self_attn.q_norm.weight", f"{LAYER}post_attention_layernorm.weight"],
    "mistral": [f"{LAYER}post_attention_layernorm.weight", f"{LAYER}mlp.gate_proj.weight"],
}
DIFFUSERS = {
    "flux": ["transformer_blocks.0.attn.add_q_proj.weight", "x_embedder.weight"],
    "sd3": ["transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"],
    "z-image": ["noise_refiner.0.attention.norm_k.weight", "layers.0.attention.to_q.weight"],
    "auraflow": ["joint_transformer_blocks.0.attn.add_k_proj.weight"],
    "pixart": [ADALN, "pos_embed.proj.bias"],
    "unet": ["down_blocks.0.resnets.0.conv1.weight"],
}


@pytest.mark.parametrize("family", KEYS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_family_with_and_without_prefix(family: str, prefix: str) -> None:
    names = [prefix + key for key in KEYS[family]] + [f"{prefix}filler.{index}" for index in range(6)]
    found = detect_family(names)
    assert (found.name, found.prefix) == (family, prefix)


def test_every_family_is_tested_and_has_a_recipe() -> None:
    names = {signature.name for signature in (*SIGNATURES, *TEXT_ENCODERS)}
    assert names | {"generic"} == KEYS.keys() | ENCODERS.keys() | {"diffusers"}
    assert {signature.recipe for signature in (*SIGNATURES, *TEXT_ENCODERS)} <= set(available_recipes())


@pytest.mark.parametrize("family", ENCODERS)
def test_a_text_encoder_of_its_own_has_no_prefix(family: str) -> None:
    """Every key of a Qwen3 file begins with "model.", which belongs to its names."""
    found = detect_family([*ENCODERS[family], f"{LAYER}mlp.up_proj.weight"])
    assert (found.name, found.prefix) == (family, "")


def test_qwen3_vl_as_its_authors_publish_it() -> None:
    names = [name.replace("model.", "model.language_model.") for name in ENCODERS["qwen3"]]
    found = detect_family([*names, "model.visual.pos_embed.weight"])
    assert (found.name, found.prefix) == ("qwen3", "")
    assert found.guards("model.language_model.embed_tokens") and found.guards("model.visual.pos_embed")


@pytest.mark.parametrize(("width", "family"), [(3584, "qwen-image"), (2560, "generic")])
def test_shapes_tell_apart_what_names_do_not(tmp_path: Path, width: int, family: str) -> None:
    """Mage-Flow has Qwen-Image's names; its text is 2560 wide."""
    tensors = {name: torch.zeros(16, 16) for name in KEYS["qwen-image"]} | {"txt_norm.weight": torch.zeros(width)}
    save_file(tensors, tmp_path / "x.safetensors")
    with open_source(tmp_path / "x.safetensors") as source:
        assert detect_family(source.tensors).name == family


def test_a_prefix_needs_more_than_five_keys() -> None:
    assert detect_prefix([f"net.{index}" for index in range(6)]) == "net."
    assert detect_prefix([f"net.{index}" for index in range(5)]) == ""
    assert detect_prefix(["model.a", "model.b", "vae.c"]) == "model."


@pytest.mark.parametrize(
    ("family", "guarded", "free"),
    [
        ("sd3", ["context_embedder", "y_embedder.mlp.0"], "joint_blocks.0.x_block.attn.qkv"),
        ("hunyuan-video", ["txt_in.input_embedder", "cond_type_embedding"], "vision_in.proj.1"),
        ("flux2", ["img_in", "txt_in"], "double_stream_modulation_img.lin"),
        ("chroma", ["txt_in"], "distilled_guidance_layer.in_proj"),
        ("flux", ["img_in", "txt_in", "vector_in.in_layer"], "double_blocks.0.img_attn.qkv"),
        ("ltx", ["transformer_blocks.0.attn2.to_k"], "transformer_blocks.1.attn2.to_k"),
        ("cosmos1", ["x_embedder.proj.1"], "blocks.block0.blocks.0.block.attn.to_q.0"),
        ("z-image", ["cap_embedder.1", "dec_net.input_embedder.embedder.0", "x_embedder"], "layers.0.attention.qkv"),
        ("lumina2", ["cap_embedder.1"], "clip_text_pooled_proj.1"),
        ("wan", ["motion_encoder.enc.fc.0", "trainable_cond_mask"], "blocks.0.ffn.0"),
        ("hidream", ["double_stream_blocks.7.block.ff_i.gate"], "double_stream_blocks.7.block.ff_i.experts.0.w1"),
        ("anima", ["x_embedder.proj.1", "llm_adapter.embed"], "llm_adapter.blocks.0.self_attn.q_proj"),
        ("cosmos", ["x_embedder.proj.1"], "blocks.0.self_attn.q_proj"),
        ("qwen-image", ["img_in", "time_text_embed.addition_t_embedding"], "transformer_blocks.0.attn.to_q"),
        ("krea2", ["first", "txtfusion.projector"], "blocks.0.attn.wq"),
        ("unet", ["middle_block.1.transformer_blocks.0.attn2.to_k", "label_emb.0.0"], "out.2"),
        (
            "generic",
            ["img_in", "context_embedder", "input_proj", "cond_seq_linear", "shared", "blocks.15.moe.gate"],
            "blocks.0.mlp",
        ),
    ],
)
def test_guard_list(family: str, guarded: list[str], free: str) -> None:
    found = detect_family(KEYS[family])
    assert all(found.guards(name) for name in guarded)
    assert not found.guards(free)


@pytest.mark.parametrize(
    ("family", "guarded"),
    [
        ("t5", ["shared", "encoder.block.3.layer.0.SelfAttention.relative_attention_bias"]),
        ("gemma", ["model.embed_tokens", "vision_model.embeddings.position_embedding"]),
        ("qwen2.5-vl", ["model.embed_tokens", "lm_head"]),
        ("mistral", ["model.embed_tokens", "model.lm_head"]),
    ],
)
def test_tables_of_text_encoders_are_guarded(family: str, guarded: list[str]) -> None:
    found = detect_family(ENCODERS[family])
    assert all(found.guards(name) for name in guarded)
    assert not found.guards("model.layers.3.mlp.up_proj") and not found.guards(
        "encoder.block.3.layer.0.SelfAttention.q"
    )


@pytest.mark.parametrize("kind", DIFFUSERS)
def test_a_diffusers_layout_is_refused_because_the_loader_joins_its_layers(kind: str, tmp_path: Path) -> None:
    tensors = {name: torch.zeros(64, 64) for name in DIFFUSERS[kind]}
    save_file(tensors, tmp_path / "x.safetensors")
    with open_source(tmp_path / "x.safetensors") as source:
        assert detect_family(source.tensors).name == "diffusers"
        with pytest.raises(PlanError, match="single-file release"):
            make_plan(source)


def test_an_unknown_model_is_not_guarded_as_a_whole() -> None:
    assert not detect_family(KEYS["generic"]).guards("anything.else")


def test_components_of_an_all_in_one_file() -> None:
    prefix = "model.diffusion_model."
    assert component(prefix + "a", prefix) == "diffusion_model"
    assert component("text_encoders.a", prefix) == "text_encoder"
    assert component("vae.a", prefix) == "other" and component("unheard.of", prefix) == "other"
    assert component("double_blocks.0", "") == "diffusion_model"
