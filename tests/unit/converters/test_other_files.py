"""LoRAs and VAEs are told what they are, a model never is; a recipe that is suggested is one that helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Options, PlanError, convert, make_plan, open_source
from nvfp4_studio.converters.other_files import is_lora, is_vae
from nvfp4_studio.tests.unit.converters.test_families import DIFFUSERS, ENCODERS, KEYS

LORAS = {
    "peft": ["diffusion_model.blocks.0.attn.to_q.lora_A.weight", "diffusion_model.blocks.0.attn.to_q.lora_B.weight"],
    "kohya": [
        "lora_unet_blocks_0_attn.lora_down.weight",
        "lora_unet_blocks_0_attn.lora_up.weight",
        "lora_unet_blocks_0_attn.alpha",
        "lora_te1_text_model_0_fc1.lora_up.weight",
    ],
    "diffusers": ["unet.down.0.attn1.processor.to_q_lora.down.weight", "transformer.blocks.0.to_q.lora.up.weight"],
    "lokr": ["lycoris_blocks_0_attn.lokr_w1", "lycoris_blocks_0_attn.lokr_w2", "lycoris_blocks_0_attn.alpha"],
    "loha": ["lycoris_blocks_0_attn.hada_w1_a", "lycoris_blocks_0_attn.dora_scale"],
    "differences": ["diffusion_model.head.lora_up.weight", "diffusion_model.head.diff_b", "diffusion_model.norm.diff"],
}
VAES = {
    "autoencoder": ["encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.mid.attn_1.q.weight", "quant_conv.weight"],
    "decoder": ["decoder.conv_in.conv.weight", "decoder.up_blocks.0.weight", "per_channel_statistics.mean-of-means"],
    "wan": ["encoder.conv1.weight", "decoder.conv1.weight", "conv1.weight", "conv2.weight"],
    "of a checkpoint": ["first_stage_model.decoder.conv_in.weight", "first_stage_model.post_quant_conv.weight"],
}  # fmt: skip


def written(names: list[str], path: Path) -> Path:
    save_file({name: torch.randn(512, 512) for name in names}, path)
    return path


@pytest.mark.parametrize("recipe", [None, "weight-only"])
@pytest.mark.parametrize("names", LORAS.values(), ids=LORAS)
def test_a_lora_is_refused_with_the_way_out(names: list[str], recipe: str | None, tmp_path: Path) -> None:
    source = written(names, tmp_path / "mine.safetensors")
    with pytest.raises(PlanError, match=r"^mine.safetensors is a LoRA, .*; merge it into its model"):
        convert(source, tmp_path / "out.safetensors", Options(recipe=recipe))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("names", VAES.values(), ids=VAES)
def test_a_vae_is_refused_with_the_way_out(names: list[str], tmp_path: Path) -> None:
    with (
        open_source(written(names, tmp_path / "ae.safetensors")) as source,
        pytest.raises(PlanError, match="ae.safetensors is a VAE, .*; choose the diffusion model"),
    ):
        make_plan(source, Options(recipe="weight-only"))


@pytest.mark.parametrize("names", [*KEYS.values(), *ENCODERS.values(), *DIFFUSERS.values()])
def test_no_model_is_taken_for_either_though_it_holds_one(names: list[str]) -> None:
    assert not is_lora(names) and not is_vae(names)
    assert not is_lora([*names, *LORAS["peft"]]) and not is_vae([*names, *VAES["autoencoder"]])
    assert not is_lora([]) and not is_vae([])


def test_the_suggested_recipe_is_one_that_quantizes(tmp_path: Path) -> None:
    path = tmp_path / "flat.safetensors"
    save_file({"stage.a.weight": torch.randn(64, 64), "other.b.weight": torch.randn(64, 64)}, path)
    with open_source(path) as source:
        for failed in ("generic", "qwen-image-v3"):
            with pytest.raises(
                PlanError, match="quantizes no layer of .*; choose another recipe, for example weight-only"
            ):
                make_plan(source, Options(recipe=failed))
        assert make_plan(source, Options(recipe="weight-only")).layers


def test_where_no_recipe_helps_none_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "norms.safetensors"
    save_file({"norm.scale": torch.ones(64)}, path)
    with open_source(path) as source:
        for failed in ("generic", "weight-only"):
            with pytest.raises(PlanError, match="and no other recipe would; choose another source"):
                make_plan(source, Options(recipe=failed))
