"""Recipes: comfy-dit-quantizer's schema, our limits, and clear words about wrong files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvfp4_studio.converters.errors import PlanError
from nvfp4_studio.converters.recipe import Blocks, available_recipes, load_recipe, parse_recipe

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
    "limits": ({"rules": [], "limits": {"width": 3}}, '"limits" takes whole numbers for divisible_by'),
    "zero": ({"rules": [], "limits": {"divisible_by": 0}}, "at least 1"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_wrong_recipes(data: object, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        parse_recipe("mine", data)


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no recipe 'qwen'.*choose one of flux, generic"):
        load_recipe("qwen")
    with pytest.raises(PlanError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match="is not JSON"):
        load_recipe(str(tmp_path / "bad.json"))
