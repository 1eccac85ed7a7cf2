"""Text encoders inside all-in-one files: kept unless asked, then converted by their own recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import Options, Plan, PlanError, convert, make_plan, open_source
from nvfp4_studio.converters.families import detect_encoders, encoder_prefix

T5 = "text_encoders.t5xxl.transformer."
BYT5 = "text_encoders.byt5_small.transformer."
CLIP = "text_encoders.clip_l.transformer."
QWEN = "text_encoders.qwen25_7b.transformer."
MLP, ATTENTION = "encoder.block.3.layer.1.DenseReluDense.wi_0", "encoder.block.3.layer.0.SelfAttention.q"


def _t5(prefix: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    tensors = {"shared": (100, 64), "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": (32, 4)}
    for block in range(6):
        tensors |= {f"encoder.block.{block}.layer.0.SelfAttention.{name}": (64, 64) for name in "qkvo"}
        tensors |= {f"encoder.block.{block}.layer.1.DenseReluDense.wi_{part}": (160, 64) for part in (0, 1)}
        tensors[f"encoder.block.{block}.layer.1.DenseReluDense.wo"] = (64, 160)
    weights = {
        f"{prefix}{name}.weight": (torch.randn(*shape, generator=generator) * 0.05).to(dtype)
        for name, shape in tensors.items()
    }
    return {**weights, f"{prefix}encoder.final_layer_norm.weight": torch.ones(64)}


@pytest.fixture
def all_in_one(checkpoint: Callable[..., Path]) -> Path:
    """A diffusion model, CLIP-L in raw FP8, a T5 and a ByT5 in BF16, a VAE."""
    path = checkpoint("all-in-one")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    tensors |= _t5(T5, torch.bfloat16) | _t5(BYT5, torch.bfloat16)
    tensors[f"{CLIP}text_model.encoder.layers.0.mlp.fc2.weight"] = torch.randn(64, 64)
    save_file(tensors, path, metadata=metadata)
    return path


def _plan(path: Path, choice: str, layout: str = "source") -> Plan:
    with open_source(path) as source:
        return make_plan(source, Options(text_encoder=choice, layout=layout))


def test_encoders_are_recognised_below_their_names(all_in_one: Path) -> None:
    with open_source(all_in_one) as source:
        found = detect_encoders(source.tensors)
    recipes = {prefix: (family.name, family.default_recipe) for prefix, family in found.items()}
    assert recipes == {T5: ("t5", "t5"), BYT5: ("t5", ""), CLIP: ("text-encoder", "")}
    assert encoder_prefix("text_encoders.llama.model.layers.0.x.weight") == "text_encoders.llama."
    assert encoder_prefix("cond_stage_model.transformer.x") == "cond_stage_model." and encoder_prefix("vae.x") == ""


def test_they_are_kept_unless_asked(all_in_one: Path) -> None:
    plan = _plan(all_in_one, "keep")
    layers = [layer for layer in plan.layers if layer.component == "text_encoder"]
    assert layers and all(layer.action == "copy" and layer.reason == "text encoder" for layer in layers)
    assert "text encoders" not in plan.to_markdown()


@pytest.mark.parametrize(("choice", "mlp"), [("nvfp4", "nvfp4"), ("fp8", "float8_e4m3fn")])
def test_their_own_recipe_decides(all_in_one: Path, choice: str, mlp: str) -> None:
    plan = _plan(all_in_one, choice)
    layers = {layer.name: layer for layer in plan.layers if layer.component == "text_encoder"}
    assert layers[T5 + MLP].format == mlp and layers[T5 + ATTENTION].format == "float8_e4m3fn"
    assert layers[T5 + MLP.replace("3", "0", 1)].reason == "text encoder, first or last block"
    assert layers[f"{T5}shared"].action == "copy"
    changed = [layer for layer in layers.values() if layer.action == "quantize"]
    assert len(changed) == 2 * 7 and all(layer.name.startswith(T5) for layer in changed)
    assert all(layer.activations == "full precision" and layer.input_scale is None for layer in changed)
    assert "ComfyUI computes them in full precision" in plan.to_markdown()


@pytest.mark.parametrize("choice", ["nvfp4", "fp8"])
def test_the_rest_passes_through_and_the_file_verifies(all_in_one: Path, choice: str, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    report = convert(all_in_one, target, Options(text_encoder=choice))
    assert report.verification.problems == () and "text encoders" in report.to_markdown()
    before, after = load_file(all_in_one), load_file(target)
    assert torch.equal(after["vae.decoder.conv_in.weight"], before["vae.decoder.conv_in.weight"])
    untouched = [name for name in before if name.startswith((BYT5, CLIP)) or "block.0." in name or "block.5." in name]
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in untouched)
    assert f"{T5}{MLP}.comfy_quant" in after and not any(
        name.startswith(T5) and name.endswith("input_scale") for name in after
    )
    convert(all_in_one, tmp_path / "keep.safetensors")
    kept = load_file(tmp_path / "keep.safetensors")
    diffusion = [name for name in kept if name.startswith("model.diffusion_model.")]
    assert all(
        torch.equal(kept[name].view(-1).view(torch.uint8), after[name].view(-1).view(torch.uint8)) for name in diffusion
    )


def test_an_fp8_encoder_becomes_nvfp4_and_its_raw_matrices_get_a_scale(all_in_one: Path, tmp_path: Path) -> None:
    tensors = load_file(all_in_one)
    save_file(tensors | _t5(T5, torch.float8_e4m3fn), all_in_one)
    report = convert(all_in_one, tmp_path / "out.safetensors", Options(text_encoder="nvfp4"))
    after = load_file(tmp_path / "out.safetensors")
    assert after[f"{T5}{MLP}.weight"].dtype == torch.uint8 and after[f"{T5}{ATTENTION}.weight_scale"] == 1
    assert f"{T5}shared.weight_scale" not in after
    layer = next(layer for layer in report.verification.layers if layer.name == T5 + MLP)
    assert layer.sqnr_db is not None and layer.sqnr_db > 19


def test_what_cannot_be_done_is_said(all_in_one: Path, checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(PlanError, match="no choice 'int4' for text encoders; choose one of keep, fp8, nvfp4"):
        _plan(all_in_one, "int4")
    with pytest.raises(PlanError, match="leaves text encoders out"):
        _plan(all_in_one, "fp8", "diffusion-model")
    with pytest.raises(PlanError, match=r"no text encoder that ComfyUI would load quantized \(found: none\)"):
        _plan(checkpoint("bf16", "alone.safetensors"), "nvfp4")
    with pytest.raises(PlanError, match=r"found: text_encoders\.clip_l\.transformer\)"):
        _plan(checkpoint("all-in-one", "clip.safetensors"), "nvfp4")


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("text_encoders.model.layers.0.mlp.up_proj.weight", "keys in text_encoders.model, which name no encoder as"),
        ("text_encoders.weight", "keys in text_encoders, which name no encoder as"),
        ("text_encoders.clip_l.logit_scale", "text_encoders.clip_l.transformer);"),
        ("cond_stage_model.x.weight", "(found: cond_stage_model, text_encoders.clip_l.transformer)"),
    ],
)
def test_keys_without_an_encoders_name_are_not_taken_for_one(
    key: str, found: str, checkpoint: Callable[..., Path]
) -> None:
    path = checkpoint("all-in-one")
    save_file(load_file(path) | {key: torch.randn(64, 64)}, path)
    with pytest.raises(PlanError, match="no text encoder that ComfyUI would load quantized") as said:
        _plan(path, "nvfp4")
    assert found in str(said.value)


def test_tables_of_language_models_are_never_packed(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("all-in-one")
    tensors = load_file(path)
    names = ("mlp.gate_proj", "mlp.up_proj", "self_attn.q_proj", "self_attn.k_proj")
    inside = {f"model.layers.{index}.{name}.weight": torch.randn(64, 64) for index in range(6) for name in names}
    inside |= {
        "model.layers.0.self_attn.k_proj.bias": torch.zeros(512),
        "model.embed_tokens.weight": torch.randn(64, 64),
    }
    inside |= {"visual.blocks.0.mlp.up_proj.weight": torch.randn(64, 64), "model.lm_head.weight": torch.randn(64, 64)}
    save_file(tensors | {f"{QWEN}{name}": tensor for name, tensor in inside.items()}, path)
    decided = {layer.name: layer for layer in _plan(path, "nvfp4").layers}
    assert decided[f"{QWEN}model.layers.3.mlp.up_proj"].format == "nvfp4"
    assert decided[f"{QWEN}model.layers.3.self_attn.q_proj"].format == "float8_e4m3fn"
    for name in ("model.embed_tokens", "model.lm_head", "visual.blocks.0.mlp.up_proj", "model.layers.1.mlp.up_proj"):
        assert decided[QWEN + name].action == "copy", name
