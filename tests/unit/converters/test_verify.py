"""Verification finds what stock ComfyUI would refuse, or silently compute wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import convert, verify

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
    tensors[f"{MOD}.scale_weight"] = torch.tensor(1.0)


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
    problems = verify(source, tmp_path / "damaged.safetensors").problems
    assert any(said in problem for problem in problems), problems


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
