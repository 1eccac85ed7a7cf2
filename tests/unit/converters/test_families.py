"""Families by key names, prefixes as the loader chooses them, and the guard list."""

from __future__ import annotations

import pytest

from nvfp4_studio.converters.families import component, detect_family, detect_prefix

KEYS = {
    "flux": ["double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"],
    "flux2": ["double_stream_modulation_img.lin.weight", "img_in.weight"],
    "chroma": ["distilled_guidance_layer.norms.0.scale", "double_blocks.0.img_attn.qkv.weight"],
    "qwen-image": ["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight", "img_in.weight"],
    "z-image": ["cap_embedder.1.weight", "layers.0.attention.qkv.weight"],
    "sd3": ["joint_blocks.0.x_block.attn.qkv.weight"],
    "hunyuan-video": ["txt_in.individual_token_refiner.blocks.0.norm1.weight"],
    "ltx": ["patchify_proj.weight", "transformer_blocks.0.attn2.to_k.weight"],
    "wan": ["blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"],
    "cosmos": ["x_embedder.proj.1.weight", "blocks.0.mlp.layer1.weight"],
    "hidream": ["caption_projection.0.linear.weight"],
    "krea2": ["first.weight", "txtfusion.projector.weight"],
    "unet": ["input_blocks.0.0.weight"],
    "generic": ["stages.0.conv.weight"],
}


@pytest.mark.parametrize("family", KEYS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_family_with_and_without_prefix(family: str, prefix: str) -> None:
    names = [prefix + key for key in KEYS[family]] + [f"{prefix}filler.{index}" for index in range(6)]
    found = detect_family(names)
    assert (found.name, found.prefix) == (family, prefix)


def test_a_prefix_needs_more_than_five_keys() -> None:
    assert detect_prefix([f"net.{index}" for index in range(6)]) == "net."
    assert detect_prefix([f"net.{index}" for index in range(5)]) == ""
    assert detect_prefix(["model.a", "model.b", "vae.c"]) == "model."


@pytest.mark.parametrize(
    ("family", "guarded", "free"),
    [
        ("flux", ["img_in", "txt_in", "vector_in.in_layer"], "double_blocks.0.img_attn.qkv"),
        ("qwen-image", ["img_in"], "transformer_blocks.0.attn.to_q"),
        ("z-image", ["cap_embedder.1"], "layers.0.attention.qkv"),
        ("sd3", ["context_embedder", "y_embedder.mlp.0"], "joint_blocks.0.x_block.attn.qkv"),
        ("ltx", ["transformer_blocks.0.attn2.to_k"], "transformer_blocks.1.attn2.to_k"),
        ("unet", ["middle_block.1.transformer_blocks.0.attn2.to_k", "label_emb.0.0"], "out.2"),
        ("generic", ["img_in", "context_embedder", "input_proj"], "blocks.0.mlp"),
    ],
)
def test_guard_list(family: str, guarded: list[str], free: str) -> None:
    found = detect_family(KEYS[family])
    assert all(found.guards(name) for name in guarded)
    assert not found.guards(free)


def test_components_of_an_all_in_one_file() -> None:
    prefix = "model.diffusion_model."
    assert component(prefix + "a", prefix) == "diffusion_model"
    assert component("text_encoders.a", prefix) == "text_encoder"
    assert component("vae.a", prefix) == "other" and component("unheard.of", prefix) == "other"
    assert component("double_blocks.0", "") == "diffusion_model"
