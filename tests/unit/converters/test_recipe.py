"""Recipes: comfy-dit-quantizer's schema, our limits, and clear words about wrong files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvfp4_studio.converters.errors import PlanError
from nvfp4_studio.converters.recipe import Blocks
from nvfp4_studio.converters.recipe_file import available_recipes, load_recipe, parse_recipe

NONE = Blocks({})
QWEN = "transformer_blocks.7."
QWEN_LAYERS = [
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj",
    "attn.to_add_out", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1",
]  # fmt: skip


def _policy(recipe: str, key: str, shape: tuple[int, int] = (3072, 3072), blocks: Blocks = NONE) -> str:
    return load_recipe(recipe).policy(f"{key}.weight", shape, blocks)[0]


def test_all_recipes_of_the_issue_are_there() -> None:
    names = {"qwen-image-v3", "qwen-image-v4", "qwen-image-v5", "flux", "generic", "weight-only"}
    assert names <= set(available_recipes())


@pytest.mark.parametrize(
    ("recipe", "published"), [("qwen-image-v3", 360), ("qwen-image-v4", 240), ("qwen-image-v5", 180)]
)
def test_published_layer_counts(recipe: str, published: int) -> None:
    """field.md: NVFP4 layers in 60 blocks; everything else in the blocks is FP8."""
    policies = [_policy(recipe, QWEN + layer) for layer in QWEN_LAYERS]
    assert policies.count("nvfp4") * 60 == published
    assert set(policies) == {"nvfp4", "float8_e4m3fn"}
    assert _policy(recipe, "img_in") == "keep"


def test_flux_keeps_every_modulation_in_both_spellings() -> None:
    for key in (
        "double_blocks.0.img_mod.lin",
        "single_blocks.3.modulation.lin",
        "double_blocks.1.txt_attn.norm.query_norm",
    ):
        assert _policy("flux", key) == "keep"
    for key in ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_mlp.2", "single_blocks.3.linear1"):
        assert _policy("flux", key) == "nvfp4"
    for key in (
        "img_in",
        "final_layer.linear",
        "double_stream_modulation_img.lin",
        "distilled_guidance_layer.layers.0.in_layer",
    ):
        assert _policy("flux", key) == "keep"


def test_a_users_file_of_comfy_dit_quantizer(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    data = {
        "format": "comfy_quant",
        "block_names": ["net.blocks."],
        "rules": [
            {"policy": "keep", "match": ["blocks.0."]},
            {"policy": "float8_e4m3fn", "match": ["v_proj", ".mlp"]},
            {"policy": "nvfp4", "match": ["k_proj", "q_proj", "v_proj"]},
        ],
    }
    path.write_text(json.dumps(data))
    recipe = load_recipe(str(path))
    expected = {
        "0.q_proj": "keep",
        "1.q_proj": "nvfp4",
        "1.v_proj": "float8_e4m3fn",
        "1.mlp.2": "float8_e4m3fn",
        "1.x": "keep",
    }
    assert {name: recipe.policy(f"net.blocks.{name}.weight", (64, 64), NONE)[0] for name in expected} == expected
    assert recipe.policy("other.1.q_proj.weight", (64, 64), NONE) == ("keep", "outside the blocks")


def test_repeated_blocks_are_found_by_counting() -> None:
    keys = [f"a.layers.{index}.{part}.weight" for index in range(8) for part in ("q", "mlp.0")]
    keys += ["embed.mlp.0.weight", "embed.mlp.2.weight", "in.weight"]
    blocks = Blocks.find(keys)
    assert blocks.stacks == {"a.layers.": 8}
    kept = {index for index in range(8) if _policy("generic", f"a.layers.{index}.q", (512, 512), blocks) == "keep"}
    assert kept == {0, 7}
    assert _policy("generic", "embed.mlp.0", (512, 512), blocks) == "keep"
    assert _policy("generic", "a.layers.3.norm1", (512, 512), blocks) == "keep"
    assert _policy("generic", "a.layers.3.q", (128, 512), blocks) == "keep"
    assert _policy("generic", "a.layers.3.q", (520, 512), blocks) == "keep"


def test_generic_is_not_misled_by_a_prefix_or_by_sd3s_block_names() -> None:
    for stack in ("model.diffusion_model.layers.", "joint_blocks."):
        blocks = Blocks({stack: 9})
        assert _policy("generic", f"{stack}4.attn.qkv", (512, 512), blocks) == "nvfp4"
        assert _policy("generic", f"{stack}4.img_mod.lin", (512, 512), blocks) == "keep"
        assert _policy("generic", f"{stack}4.adaLN_modulation.1", (512, 512), blocks) == "keep"


N, F, K = "nvfp4", "float8_e4m3fn", "keep"
FAMILIES: dict[str, tuple[dict[str, int], dict[str, str]]] = {
    "z-image-turbo": (
        {"layers.": 30, "noise_refiner.": 2},
        {
            "layers.0.attention.qkv": N, "layers.29.feed_forward.w2": N, "layers.3.adaLN_modulation.0": K,
            "noise_refiner.0.attention.qkv": K, "context_refiner.1.feed_forward.w1": K, "cap_embedder.1": K,
        },
    ),
    "z-image-base": (
        {"layers.": 30, "noise_refiner.": 2},
        {
            "layers.4.feed_forward.w1": F, "layers.5.feed_forward.w1": N, "layers.24.feed_forward.w3": N,
            "layers.25.feed_forward.w1": F, "layers.12.attention.qkv": F, "layers.12.attention.out": F,
            "layers.12.adaLN_modulation.0": K, "noise_refiner.0.feed_forward.w1": K,
        },
    ),
    "lumina2": (
        {"layers.": 26, "noise_refiner.": 2},
        {
            "layers.1.feed_forward.w1": K, "layers.2.feed_forward.w1": N, "layers.23.attention.qkv": F,
            "layers.24.attention.qkv": K, "layers.9.adaLN_modulation.1": K, "context_refiner.0.attention.out": K,
        },
    ),
    "wan": (
        {"blocks.": 40, "vace_blocks.": 8},
        {
            "blocks.1.self_attn.q": K, "blocks.2.self_attn.q": N, "blocks.37.cross_attn.o": N, "blocks.38.ffn.0": K,
            "blocks.20.ffn.0": N, "blocks.20.ffn.2": F, "blocks.39.ffn.2": K, "blocks.20.cross_attn.k": N,
            "blocks.20.cross_attn.k_img": F, "vace_blocks.4.self_attn.q": F, "time_projection.1": K, "head.head": K,
            "blocks.20.audio_cross_attn_wrapper.audio_cross_attn.q": F, "text_embedding.0": K,
        },
    ),
    "ltx-2": (
        {"transformer_blocks.": 48, "video_embeddings_connector.transformer_1d_blocks.": 2},
        {
            "transformer_blocks.1.attn1.to_q": K, "transformer_blocks.2.attn1.to_q": N, "transformer_blocks.46.ff.net.2": K,
            "transformer_blocks.9.attn2.to_out.0": N, "transformer_blocks.9.ff.net.0.proj": N,
            "transformer_blocks.9.audio_attn1.to_q": F, "transformer_blocks.9.video_to_audio_attn.to_k": F,
            "transformer_blocks.9.audio_ff.net.2": F, "transformer_blocks.9.attn1.to_gate_logits": K,
            "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q": K, "adaln_single.linear": K,
            "patchify_proj": K, "proj_out": K,
        },
    ),
    "anima": (
        {"blocks.": 28, "llm_adapter.blocks.": 6},
        {
            "blocks.0.self_attn.q_proj": K, "blocks.1.mlp.layer1": K, "blocks.2.self_attn.q_proj": N,
            "blocks.10.cross_attn.k_proj": N, "blocks.27.self_attn.output_proj": N, "blocks.21.self_attn.v_proj": F,
            "blocks.9.mlp.layer2": F, "blocks.9.adaln_modulation_mlp.1": K, "llm_adapter.blocks.3.self_attn.q_proj": K,
            "llm_adapter.embed": K, "x_embedder.proj.1": K,
        },
    ),
    "cosmos": (
        {"blocks.": 28},
        {
            "blocks.1.mlp.layer1": K, "blocks.2.mlp.layer1": N, "blocks.2.mlp.layer2": F, "blocks.26.mlp.layer2": K,
            "blocks.9.self_attn.v_proj": F, "blocks.9.cross_attn.q_proj": N, "blocks.9.adaln_modulation_mlp.2": K,
            "blocks.block1.blocks.0.block.attn.to_q.0": K, "blocks.block2.blocks.0.block.attn.to_q.0": N,
            "blocks.block20.blocks.1.block.attn.to_v.0": F, "blocks.block20.blocks.2.block.layer1": N,
            "blocks.block20.blocks.2.adaLN_modulation.1": K, "blocks.block27.blocks.2.block.layer1": K,
        },
    ),
    "sd3": (
        {"joint_blocks.": 38},
        {
            "joint_blocks.1.x_block.attn.qkv": K, "joint_blocks.2.x_block.attn.qkv": N, "joint_blocks.9.x_block.mlp.fc2": N,
            "joint_blocks.9.x_block.attn2.qkv": N, "joint_blocks.9.context_block.attn.qkv": F,
            "joint_blocks.36.context_block.mlp.fc1": K, "joint_blocks.9.x_block.adaLN_modulation.1": K,
            "context_embedder": K, "y_embedder.mlp.0": K, "final_layer.linear": K,
        },
    ),
    "hunyuan-video": (
        {"double_blocks.": 20, "single_blocks.": 40},
        {
            "double_blocks.1.img_attn.qkv": K, "double_blocks.2.img_attn.qkv": N, "double_blocks.2.img_attn_qkv": N,
            "double_blocks.9.img_mlp.fc1": N, "double_blocks.9.txt_attn_proj": F, "double_blocks.9.txt_mlp.2": F,
            "double_blocks.9.img_mod.linear": K, "double_blocks.9.txt_mod.lin": K, "single_blocks.9.modulation.linear": K,
            "single_blocks.37.linear2": N, "single_blocks.38.linear2": K, "vision_in.proj.1": K,
            "txt_in.individual_token_refiner.blocks.0.mlp.0": K,
        },
    ),
    "hidream": (
        {"double_stream_blocks.": 16, "single_stream_blocks.": 32},
        {
            "double_stream_blocks.1.block.ff_i.experts.0.w1": K, "double_stream_blocks.2.block.ff_i.experts.3.w2": N,
            "single_stream_blocks.9.block.ff_i.shared_experts.w3": N, "double_stream_blocks.9.block.attn1.to_q": N,
            "double_stream_blocks.9.block.attn1.to_q_t": F, "double_stream_blocks.9.block.attn1.to_v": F,
            "double_stream_blocks.9.block.ff_t.w1": F, "single_stream_blocks.9.block.ff_i.gate": K,
            "single_stream_blocks.9.block.adaLN_modulation.1": K, "caption_projection.4.linear": K,
            "single_stream_blocks.30.block.attn1.to_out": K,
        },
    ),
    "krea2": (
        {"blocks.": 28, "txtfusion.layerwise_blocks.": 2},
        {
            "blocks.1.attn.wq": K, "blocks.2.attn.wq": N, "blocks.9.attn.gate": F, "blocks.9.attn.wv": F,
            "blocks.9.mlp.gate": N, "blocks.9.mlp.up": N, "blocks.9.mlp.down": F, "txtfusion.layerwise_blocks.0.attn.wq": K,
            "tproj.1": K, "first": K,
        },
    ),
    "ernie-image": (
        {"layers.": 36},
        {
            "layers.0.self_attention.to_q": K, "layers.1.self_attention.to_q": N, "layers.9.self_attention.to_out.0": N,
            "layers.9.mlp.linear_fc2": N, "layers.35.mlp.up_proj": K, "adaLN_modulation.1": K, "text_proj": K,
        },
    ),
    "text-encoder": (
        {"model.layers.": 36, "vision_model.encoder.layers.": 27},
        {
            "model.layers.1.mlp.up_proj": K, "model.layers.2.mlp.down_proj": N, "model.layers.33.self_attn.q_proj": F,
            "model.layers.34.self_attn.q_proj": K, "model.embed_tokens": K, "visual.blocks.3.mlp.up_proj": K,
            "model.visual.blocks.3.mlp.linear_fc1": K, "vision_model.encoder.layers.9.mlp.fc1": K, "lm_head": K,
            "model.language_model.layers.9.mlp.up_proj": N, "model.layers.9.per_layer_input_gate": K,
        },
    ),
    "t5": (
        {"encoder.block.": 24},
        {
            "encoder.block.1.layer.1.DenseReluDense.wi_0": K, "encoder.block.2.layer.1.DenseReluDense.wi_0": N,
            "encoder.block.2.layer.1.DenseReluDense.wi": N, "encoder.block.9.layer.1.DenseReluDense.wo": F,
            "encoder.block.9.layer.0.SelfAttention.q": F, "encoder.block.22.layer.0.SelfAttention.q": K,
            "encoder.block.9.layer.0.SelfAttention.relative_attention_bias": K, "shared": K,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
@pytest.mark.parametrize("recipe", FAMILIES)
def test_recipe_of_a_family(recipe: str, prefix: str) -> None:
    stacks, expected = FAMILIES[recipe]
    blocks = Blocks({prefix + stack: count for stack, count in stacks.items()})
    found = {key: _policy(recipe, prefix + key, (3072, 3072), blocks) for key in expected}
    assert found == expected


def test_every_recipe_is_tested() -> None:
    elsewhere = {"flux", "generic", "int8", "mxfp8", "weight-only", "qwen-image-v3", "qwen-image-v4", "qwen-image-v5"}
    assert FAMILIES.keys() | elsewhere == available_recipes().keys()


@pytest.mark.parametrize("recipe", available_recipes())
def test_no_word_hides_in_a_prefix(recipe: str) -> None:
    words = [word for rule in load_recipe(recipe).rules for word in rule.match if word]
    hosts = ("model.diffusion_model.", "model.model.", "net.")
    assert not [(word, host) for word in words for host in hosts if word in host]


def test_edge_blocks_are_kept_from_every_format() -> None:
    data = {"rules": [{"policy": "float8_e4m3fn", "match": ["q"]}], "limits": {"edge_blocks": 1, "minimum_width": 64}}
    recipe, blocks = parse_recipe("mine", {**data, "block_names": [""]}), Blocks({"blocks.": 6})
    found = [recipe.policy(f"blocks.{index}.q.weight", (32, 32), blocks)[0] for index in range(6)]
    assert found == [K, F, F, F, F, K]


def test_weight_only_takes_everything_divisible_by_16() -> None:
    assert _policy("weight-only", "anything", (32, 48)) == "nvfp4"
    assert _policy("weight-only", "anything", (32, 40)) == "keep"


BAD = {
    "no rules": ({}, 'no list "rules"'),
    "list": ([], 'no list "rules"'),
    "policy": (
        {"rules": [{"policy": "int2", "match": [""]}]},
        "rule 1 has the policy 'int2'.*keep, float8_e4m3fn, nvfp4",
    ),
    "match": ({"rules": [{"policy": "keep", "match": "x"}]}, 'rule 1 needs a "policy" and a list'),
    "blocks": ({"rules": [], "block_names": 3}, '"block_names" must be'),
    "renames": ({"rules": [], "replace_names": {"a": "b"}}, "replace_names"),
    "limits": ({"rules": [], "limits": {"width": 3}}, '"limits" takes whole numbers for divisible_by'),
    "zero": ({"rules": [], "limits": {"divisible_by": 0}}, "at least 1"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_wrong_recipes(data: object, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        parse_recipe("mine", data)


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no recipe 'qwen'.*choose one of anima, .*flux, generic"):
        load_recipe("qwen")
    with pytest.raises(PlanError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match="is not JSON"):
        load_recipe(str(tmp_path / "bad.json"))
