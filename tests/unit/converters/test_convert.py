"""Whole conversions of every kind of source: what is written, what is identical, what is repaired."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy_kitchen as ck
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Calibration, Collector
from nvfp4_studio.converters import (
    Cancelled,
    ConversionError,
    Options,
    PlanError,
    convert,
    make_plan,
    open_source,
    verify,
)
from nvfp4_studio.converters.formats.weight import upcast

Checkpoint = Callable[..., Path]
QKV, MOD = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_mod.lin"


def _tags(path: Path) -> dict[str, dict[str, Any]]:
    """The tags of a file; asserts that both forms agree."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["_quantization_metadata"])["layers"]
    tensors = {
        name.removesuffix(".comfy_quant"): json.loads(bytes(tensor.tolist()))
        for name, tensor in load_file(path).items()
        if name.endswith(".comfy_quant")
    }
    assert header == tensors
    return header


def _dequantized(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """By comfy-kitchen, not by our own code."""
    return ck.dequantize_nvfp4(
        tensors[f"{layer}.weight"], tensors[f"{layer}.weight_scale_2"], tensors[f"{layer}.weight_scale"], torch.float32
    )


def calibration_for(path: Path, scale: float = 3.0, skip: str = "nothing") -> Calibration:
    """Real statistics of a stack of Linears with the source's names and shapes."""
    with open_source(path) as source:
        names = [n for n, i in source.tensors.items() if n.endswith(".weight") and len(i.shape) == 2]
        shapes = {n.removesuffix(".weight").removeprefix("model.diffusion_model."): source.tensors[n].shape for n in names
                  if not n.startswith("text_encoders")}  # fmt: skip
    root = torch.nn.Module()
    for name, (rows, columns) in shapes.items():
        parent = root
        *path_parts, last = name.split(".")
        for part in path_parts:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.add_module(last, torch.nn.Linear(columns, rows, device="meta"))
    collector = Collector(root)
    generator = torch.Generator().manual_seed(1)
    with collector.observing(0.5):
        for name, module in root.named_modules():
            if isinstance(module, torch.nn.Linear) and name != skip:
                module.to_empty(device="cpu")(torch.randn(8, module.in_features, generator=generator) * scale)
    return collector.finish(images=1)


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32", "raw", "scaled", "legacy", "untagged", "all-in-one"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_every_source_becomes_a_file_that_verifies(
    kind: str, calibrated: bool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source, target = checkpoint(kind), tmp_path / "out.safetensors"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    report = convert(source, target, calibration=calibration_for(source) if calibrated else None)
    assert hashlib.sha256(source.read_bytes()).hexdigest() == digest
    assert verify(source, target).problems == ()
    prefix = "model.diffusion_model." if kind == "all-in-one" else ""
    tensors, tags = load_file(target), _tags(target)
    assert target.stat().st_size == report.plan.output_bytes
    for block in range(2):
        for name in ("img_attn.qkv", "img_attn.proj", "img_mlp.0"):
            layer = f"{prefix}double_blocks.{block}.{name}"
            assert tags[layer] == {"format": "nvfp4"}
            assert (f"{layer}.input_scale" in tensors) is calibrated
    assert tensors[f"{prefix}img_in.weight"].shape == (128, 64) and f"{prefix}img_in" not in tags
    assert not any(name.endswith(("scale_weight", "scale_input", "scaled_fp8")) for name in tensors)


def test_nvfp4_weights_are_close_to_the_upcast_source(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    report = convert(source, target)
    before, after = load_file(source), load_file(target)
    exact = upcast(before[f"{QKV}.weight"], before[f"{QKV}.weight_scale"], QKV)
    noise = (_dequantized(after, QKV) - exact).square().sum()
    sqnr = 10 * torch.log10(exact.square().sum() / noise)
    listed = next(layer for layer in report.verification.layers if layer.name == QKV)
    assert sqnr == pytest.approx(listed.sqnr_db, abs=1e-3) and sqnr > 20.5
    assert listed.rel_rmse == pytest.approx(float(noise.sqrt() / exact.norm()), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(_dequantized(after, QKV).flatten(), exact.flatten(), dim=0)
    assert listed.cosine == pytest.approx(float(cosine), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "scale"), [("scaled", "weight_scale"), ("legacy", "scale_weight"), ("untagged", "weight_scale")]
)
def test_an_fp8_layer_that_stays_is_copied_byte_for_byte_with_its_scale(
    kind: str, scale: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source, target = checkpoint(kind), tmp_path / "out.safetensors"
    convert(source, target)
    before, after = load_file(source), load_file(target)
    assert torch.equal(before[f"{MOD}.weight"].view(torch.uint8), after[f"{MOD}.weight"].view(torch.uint8))
    assert torch.equal(before[f"{MOD}.{scale}"], after[f"{MOD}.weight_scale"])
    assert _tags(target)[MOD] == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    assert f"{MOD}.input_scale" not in after


def test_a_raw_fp8_layer_is_repaired_with_scale_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("raw"), tmp_path / "out.safetensors"
    report = convert(source, target, calibration=calibration_for(source))
    after = load_file(target)
    assert after[f"{MOD}.weight_scale"] == 1.0 and after[f"{MOD}.weight_scale"].dtype == torch.float32
    assert torch.equal(load_file(source)[f"{MOD}.weight"].view(torch.uint8), after[f"{MOD}.weight"].view(torch.uint8))
    assert any("weight_scale = 1 added" in repair for repair in report.plan.repairs)


def test_fp8_layers_get_an_input_scale_from_the_calibration(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """p99.9 of the per-call amax × 2; one call, so that is the largest value × 2."""
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    calibration = calibration_for(source, scale=500.0)
    convert(source, target, calibration=calibration)
    after = load_file(target)
    assert _tags(target)[MOD] == {"format": "float8_e4m3fn"}
    for layer, largest in ((MOD, 448.0), (QKV, 448.0 * 6)):
        expected = calibration.layers[layer].amax * 2 / largest
        assert after[f"{layer}.input_scale"].item() == pytest.approx(expected, rel=1e-6)
        assert after[f"{layer}.input_scale"].dtype == torch.float32 and after[f"{layer}.input_scale"].shape == ()


def test_a_layer_that_was_never_seen_stays_safe_and_is_reported(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    report = convert(source, target, calibration=calibration_for(source, skip=MOD))
    assert _tags(target)[MOD]["full_precision_matrix_mult"] is True
    assert any(MOD in warning and "never seen" in warning for warning in report.plan.warnings)


def test_policy_dynamic_writes_no_input_scale(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    convert(source, target, Options(input_scale="dynamic"), calibration=calibration_for(source))
    assert not any(name.endswith("input_scale") for name in load_file(target))
    assert _tags(target)[MOD]["full_precision_matrix_mult"] is True


def test_an_fp8_rule_quantizes_plain_weights_by_amax(checkpoint: Checkpoint, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.json"
    rules = [{"policy": "float8_e4m3fn", "match": ["img_mod"]}, {"policy": "nvfp4", "match": ["img_attn"]}]
    recipe.write_text(json.dumps({"block_names": ["double_blocks"], "rules": rules}))
    source, target = checkpoint("bf16"), tmp_path / "out.safetensors"
    convert(source, target, Options(recipe=str(recipe)))
    before, after = load_file(source), load_file(target)
    assert after[f"{MOD}.weight"].dtype == torch.float8_e4m3fn
    assert after[f"{MOD}.weight_scale"] == before[f"{MOD}.weight"].float().abs().amax() / 448
    assert after["double_blocks.0.img_mlp.0.weight"].dtype == torch.bfloat16


def test_everything_else_passes_through_byte_for_byte(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("all-in-one"), tmp_path / "out.safetensors"
    report = convert(source, target)
    before, after = load_file(source), load_file(target)
    encoder = "text_encoders.clip_l.transformer.text_model."
    for name in before:
        if name.startswith(("vae.", encoder)) or name.endswith(".bias"):
            assert before[name].dtype == after[name].dtype and before[name].shape == after[name].shape
            assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
    fc1 = f"{encoder}encoder.layers.0.mlp.fc1"
    assert after[f"{fc1}.weight_scale"] == 1.0 and _tags(target)[fc1] == {"format": "float8_e4m3fn"}
    assert f"{encoder}embeddings.token_embedding.weight_scale" not in after
    assert "double_blocks.9.gone.weight_scale" not in after
    assert any("stale" in repair for repair in report.plan.repairs)
    with safe_open(target, "pt") as file:
        assert file.metadata()["author"] == "test"


def test_layout_diffusion_model_strips_prefix_and_leaves_the_rest_out(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("all-in-one"), tmp_path / "out.safetensors"
    convert(source, target, Options(layout="diffusion-model"))
    names = set(load_file(target))
    assert f"{QKV}.weight" in names and QKV in _tags(target)
    assert not any(name.startswith(("model.", "vae.", "text_encoders.")) for name in names)
    assert verify(source, target).problems == ()


def test_layout_checkpoint_keeps_prefixes_and_needs_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("all-in-one")
    convert(source, tmp_path / "a.safetensors", Options(layout="checkpoint"))
    assert f"model.diffusion_model.{QKV}.weight" in load_file(tmp_path / "a.safetensors")
    with pytest.raises(PlanError, match="has no key prefix"):
        convert(checkpoint("raw", "bare.safetensors"), tmp_path / "b.safetensors", Options(layout="checkpoint"))


def test_the_guard_stands_above_every_recipe(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with open_source(checkpoint("bf16")) as source:
        plan = make_plan(source, Options(recipe="weight-only"))
    decided = {layer.name: layer for layer in plan.layers}
    assert decided["img_in"].format == "bfloat16" and "reads the model's size" in decided["img_in"].reason
    assert decided[MOD].format == "nvfp4"


def test_the_same_input_gives_the_same_bytes_on_any_number_of_threads(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("scaled")
    for workers in (1, 2, 5):
        convert(source, tmp_path / f"{workers}.safetensors", calibration=calibration_for(source), workers=workers)
    one, two, five = ((tmp_path / f"{workers}.safetensors").read_bytes() for workers in (1, 2, 5))
    assert one == two == five


def _leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "source.safetensors")


@pytest.mark.parametrize("after", [0, 1, 5, 20, 60])
def test_cancel_leaves_nothing(after: int, checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("scaled")
    asked = iter(range(10_000))
    with pytest.raises(Cancelled):
        convert(source, tmp_path / "out.safetensors", cancelled=lambda: next(asked) >= after)
    assert _leftovers(tmp_path) == []


def test_an_error_in_progress_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def progress(done: int, total: int, label: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint("scaled"), tmp_path / "out.safetensors", progress=progress)
    assert _leftovers(tmp_path) == []


def test_progress_ends_at_its_total(checkpoint: Checkpoint, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(
        checkpoint("scaled"), tmp_path / "out.safetensors", progress=lambda done, total, _: seen.append((done, total))
    )
    done = [part for part, _ in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1


def test_refusals(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    target.write_text("mine")
    with pytest.raises(ConversionError, match="exists already"):
        convert(source, target)
    assert target.read_text() == "mine"
    with pytest.raises(ConversionError, match="the source itself"):
        convert(source, source, overwrite=True)
    with pytest.raises(ConversionError, match="must end in .safetensors"):
        convert(source, tmp_path / "out.gguf")
    with pytest.raises(ConversionError, match="does not exist"):
        convert(source, tmp_path / "none" / "out.safetensors")
    with pytest.raises(ConversionError, match="no device 'tpu'"):
        convert(source, tmp_path / "x.safetensors", device="tpu")
    with pytest.raises(PlanError, match="no layout 'sideways'"):
        convert(source, tmp_path / "x.safetensors", Options(layout="sideways"))
    with pytest.raises(PlanError, match="no input_scale policy 'p50'"):
        convert(source, tmp_path / "x.safetensors", Options(input_scale="p50"))
    with pytest.raises(PlanError, match="quantizes no layer"):
        convert(source, tmp_path / "x.safetensors", Options(recipe="qwen-image-v3"))
    convert(source, target, overwrite=True)
    with pytest.raises(PlanError, match="holds nvfp4 already"):
        convert(target, tmp_path / "x.safetensors")
    assert _leftovers(tmp_path) == ["out.safetensors"]


def test_a_calibration_of_another_model_names_the_mismatch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("scaled")
    save_file({"other.layers.0.q.weight": torch.randn(64, 64)}, tmp_path / "other.safetensors")
    with pytest.raises(PlanError, match="of another model.*other.layers.0.q is not in the checkpoint"):
        convert(source, tmp_path / "x.safetensors", calibration=calibration_for(tmp_path / "other.safetensors"))
    save_file({f"{QKV}.weight": torch.randn(384, 64)}, tmp_path / "wider.safetensors")
    with pytest.raises(PlanError, match=f"{QKV} was calibrated as 384 x 64, is 384 x 128"):
        convert(source, tmp_path / "x.safetensors", calibration=calibration_for(tmp_path / "wider.safetensors"))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)
    weight[3, 3] = float("nan")
    save_file({"blocks.0.a.weight": weight}, tmp_path / "nan.safetensors")
    with pytest.raises(ConversionError, match="blocks.0.a hold NaN or infinity"):
        convert(tmp_path / "nan.safetensors", tmp_path / "x.safetensors", Options(recipe="weight-only"))
    assert not (tmp_path / "x.safetensors").exists()


def test_fp8_with_a_scale_for_each_row_is_dequantized_exactly(tmp_path: Path) -> None:
    stored = torch.randn(64, 64).to(torch.float8_e4m3fn)
    scale = torch.rand(64, 1) + 0.5
    save_file({"blocks.0.a.weight": stored, "blocks.0.a.weight_scale": scale}, tmp_path / "rows.safetensors")
    report = convert(tmp_path / "rows.safetensors", tmp_path / "x.safetensors", Options(recipe="weight-only"))
    exact = stored.float() * scale
    noise = (_dequantized(load_file(tmp_path / "x.safetensors"), "blocks.0.a") - exact).square().sum()
    assert report.verification.layers[0].sqnr_db == pytest.approx(
        float(10 * torch.log10(exact.square().sum() / noise)), abs=1e-3
    )
