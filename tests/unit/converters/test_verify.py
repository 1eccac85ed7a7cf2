"""Verification finds what stock ComfyUI would refuse, or silently compute wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import Options, convert, verify

Checkpoint = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
QKV, MOD = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_mod.lin"


def _drop(name: str) -> Callable[[Tensors, dict[str, str]], None]:
    def change(tensors: Tensors, _: dict[str, str]) -> None:
        del tensors[name]

    return change


def _set(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors, dict[str, str]], None]:
    def change(tensors: Tensors, _: dict[str, str]) -> None:
        tensors[name] = value(tensors[name])

    return change


def _header(change: Callable[[dict[str, object]], object]) -> Callable[[Tensors, dict[str, str]], None]:
    def apply(_: Tensors, metadata: dict[str, str]) -> None:
        header = json.loads(metadata["_quantization_metadata"])
        change(header["layers"])
        metadata["_quantization_metadata"] = json.dumps(header)

    return apply


def _stale(tensors: Tensors, _: dict[str, str]) -> None:
    tensors["img_in.scale_weight"] = torch.tensor(1.0)


def _clamping(tensors: Tensors, metadata: dict[str, str]) -> None:
    entry = {"format": "float8_e4m3fn"}
    tensors[f"{MOD}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    _header(lambda layers: layers.update({MOD: entry}))(tensors, metadata)


DAMAGE = {
    "no block scales": (_drop(f"{QKV}.weight_scale"), "weight_scale is missing"),
    "no tensor scale": (_drop(f"{QKV}.weight_scale_2"), "weight_scale_2 is missing"),
    "no FP8 scale": (_drop(f"{MOD}.weight_scale"), "weight_scale is missing"),
    "scale of zero": (_set(f"{QKV}.weight_scale_2", torch.zeros_like), "not finite and positive"),
    "scale not a number": (_set(f"{MOD}.weight_scale", lambda t: t * float("nan")), "not finite and positive"),
    "scale in half": (_set(f"{MOD}.weight_scale", lambda t: t.bfloat16()), "is BF16, expected torch.float32"),
    "header without a layer": (_header(lambda layers: layers.pop(QKV)), "the header says None"),
    "header with a ghost": (_header(lambda layers: layers.update({"ghost": {"format": "nvfp4"}})), "has no weight"),
    "forms differ": (_header(lambda layers: layers.update({MOD: {"format": "float8_e4m3fn"}})), "the header says"),
    "legacy scale": (_stale, "stale tensor of the legacy form"),
    "FP8 that would clamp": (_clamping, "would clamp its input at ±448"),
    "bias changed": (_set("double_blocks.0.img_attn.qkv.bias", lambda t: t + 1), "differs from the source"),
    "bias missing": (_drop("double_blocks.0.img_attn.qkv.bias"), "of the source is missing"),
    "half of the rows": (_set(f"{QKV}.weight", lambda t: t[:192].clone()), "has shape [192, 64], expected [384, 64]"),
    "other codes": (_set(f"{QKV}.weight", lambda t: torch.randint_like(t, 256)), "which no rounding explains"),
    "block scales of zero": (_set(f"{QKV}.weight_scale", torch.zeros_like), "which no rounding explains"),
    "block scales flat": (_set(f"{QKV}.weight_scale", lambda t: t.flatten()), "has shape"),
    "tensor scale of two": (_set(f"{QKV}.weight_scale_2", lambda t: t.repeat(2)), "expected one value"),
    "foreign tensor": (lambda tensors, _: tensors.update(new=torch.ones(1)), "no counterpart"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found(
    damage: Callable[[Tensors, dict[str, str]], None], said: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    convert(source, target)
    tensors = load_file(target)
    with safe_open(target, "pt") as file:
        metadata = dict(file.metadata())
    damage(tensors, metadata)
    save_file(tensors, tmp_path / "damaged.safetensors", metadata=metadata)
    found = verify(source, tmp_path / "damaged.safetensors")
    assert found.related and any(said in problem for problem in found.problems), found.problems


@pytest.mark.parametrize("kind", ["other names", "other shapes"])
def test_a_file_of_another_model_is_called_that(kind: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, other = checkpoint("bf16"), tmp_path / "other.safetensors"
    tensors = load_file(source)
    renamed = kind == "other names"
    save_file(
        {f"x.{name}" if renamed else name: t if renamed else t[:48].clone() for name, t in tensors.items()}, other
    )
    found = verify(source, other)
    assert not found.related and not found.to_json()["good"]
    lost = f"{len(tensors)} of {len(tensors)} tensors are missing or have another shape"
    assert found.problems[0].startswith(
        f"other.safetensors was not converted from source.safetensors: {lost}; verify it"
    )
    assert len(found.problems) > 1, "what JSON tells in full"


@pytest.mark.parametrize("kind", ["bf16", "raw", "scaled", "untagged", "legacy", "all-in-one"])
@pytest.mark.parametrize("layout", ["checkpoint", "diffusion-model"])
def test_a_conversion_belongs_to_its_source(kind: str, layout: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = Options(recipe="weight-only", layout=layout if kind == "all-in-one" else "source", rounding="nearest")
    source, target = checkpoint(kind), tmp_path / "out.safetensors"
    convert(source, target, options)
    found = verify(source, target)
    assert found.related and found.problems == ()


def test_a_header_without_layers_is_a_problem_and_no_crash(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    convert(source, target)
    save_file(load_file(target), tmp_path / "bare.safetensors", metadata={"_quantization_metadata": "{}"})
    assert verify(source, tmp_path / "bare.safetensors").problems


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e30])
def test_errors_of_extreme_weights_are_numbers(size: float, tmp_path: Path) -> None:
    weights = {"blocks.0.a.weight": torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * size}
    save_file(weights, tmp_path / "in.safetensors")
    report = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe="weight-only"))
    (layer,) = report.verification.layers
    assert layer.sqnr_db is not None and layer.sqnr_db > 10 and not layer.identical
    json.dumps(report.to_json(), allow_nan=False)


def test_cosine_agrees_with_float64_in_every_printed_digit(
    decoded: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(704, 1040, generator=generator)
    save_file({"blocks.0.a.weight": weight}, tmp_path / "in.safetensors")
    report = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe="weight-only"))
    stored = load_file(tmp_path / "out.safetensors")
    parts = {name.rpartition(".")[2]: tensor for name, tensor in stored.items()}
    values = decoded("nvfp4", parts, (704, 1040)).double()
    exact = weight.double()
    (layer,) = report.verification.layers
    assert layer.cosine == pytest.approx(float((exact * values).sum() / exact.norm() / values.norm()), abs=1e-7)
    assert layer.rel_rmse == pytest.approx(float((exact - values).norm() / exact.norm()), rel=1e-6)


def test_changed_weights_show_in_the_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, target = checkpoint("scaled"), tmp_path / "out.safetensors"
    convert(source, target)
    tensors = load_file(target)
    with safe_open(target, "pt") as file:
        metadata = dict(file.metadata())
    tensors[f"{QKV}.weight"] ^= 0x88
    save_file(tensors, tmp_path / "signs.safetensors", metadata=metadata)
    before, after = verify(source, target), verify(source, tmp_path / "signs.safetensors")
    assert after.worst().name == QKV and after.worst().sqnr_db == pytest.approx(-6.02, abs=0.3)
    assert after.worst().cosine < -0.99 < 0.99 < before.worst().cosine
    assert before.to_json()["good"] is True and before.to_json()["worst_layer"] == before.worst().name


@pytest.mark.parametrize("rows", [1024, 1040, 4112])
def test_a_conversion_measures_a_sample_of_many_rows_and_verify_all(rows: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(rows)
    weights = torch.randn(rows, 64, generator=generator)
    save_file({f"blocks.{number}.q.weight": weights.clone() for number in range(2)}, tmp_path / "in.safetensors")
    report = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe="weight-only"))
    sampled, all_of_them = report.verification, verify(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert (sampled.layers == all_of_them.layers) == (rows <= 1024)
    assert sampled.mean_sqnr_db() == pytest.approx(all_of_them.mean_sqnr_db(), abs=0.1)


@pytest.mark.parametrize("small", [0.0, 1e-6])
def test_a_sample_of_rows_that_say_nothing_is_not_enough(small: float, tmp_path: Path) -> None:
    weights = small * torch.ones(2048, 64)
    weights[100] = torch.randn(64, generator=torch.Generator().manual_seed(1))
    save_file({f"blocks.{number}.q.weight": weights.clone() for number in range(2)}, tmp_path / "in.safetensors")
    report = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe="weight-only"))
    assert report.verification.layers == verify(tmp_path / "in.safetensors", tmp_path / "out.safetensors").layers
