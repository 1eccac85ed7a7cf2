"""Files with several formats inside: what is quantized already stays, byte for byte; the rest is converted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Collector
from nvfp4_studio.converters import Options, PlanError, convert, make_plan, open_source, verify

OPTIONS = Options(recipe="weight-only")
STORED: dict[str, Callable[[torch.Generator], dict[str, torch.Tensor]]] = {
    "nvfp4": lambda g: {
        "weight": torch.randint(0, 256, (32, 16), dtype=torch.uint8, generator=g),
        "weight_scale": torch.rand(128, 4, generator=g).to(torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(0.01),
        "input_scale": torch.tensor(0.5),
    },
    "mxfp8": lambda g: {
        "weight": torch.randn(32, 32, generator=g).to(torch.float8_e4m3fn),
        "weight_scale": torch.randint(100, 130, (128, 4), dtype=torch.uint8, generator=g),
    },
    "int8_tensorwise": lambda g: {
        "weight": torch.randint(-128, 128, (32, 32), dtype=torch.int8, generator=g),
        "weight_scale": torch.rand(32, 1, generator=g),
    },
    "asym_w4a8_int8": lambda g: {
        "weight": torch.randint(-128, 128, (32, 16), dtype=torch.int8, generator=g),
        "weight_s_rel": torch.rand(32, 2, generator=g).to(torch.float8_e4m3fn),
        "weight_s_channel": torch.rand(32, generator=g),
    },
}


def _mixed(path: Path, kind: str, leave_out: str = "nothing", plain: bool = True) -> dict[str, torch.Tensor]:
    """One layer of ``kind`` with a tag of unknown fields, beside a plain one."""
    generator = torch.Generator().manual_seed(9)
    tag = {"format": kind, "convrot": False, "params": {"convrot_groupsize": 256}}
    tensors = {f"blocks.0.done.{suffix}": tensor for suffix, tensor in STORED[kind](generator).items()}
    tensors["blocks.0.done.comfy_quant"] = torch.tensor(list(json.dumps(tag).encode()), dtype=torch.uint8)
    tensors["blocks.0.done.bias"] = torch.zeros(32)
    del tensors[f"blocks.0.done.{leave_out}" if leave_out != "nothing" else "blocks.0.done.bias"]
    if plain:
        tensors["blocks.0.todo.weight"] = torch.randn(32, 32, generator=generator).bfloat16()
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("kind", STORED)
def test_a_quantized_layer_is_carried_over_and_the_others_are_converted(kind: str, tmp_path: Path) -> None:
    source, target = tmp_path / "mixed.safetensors", tmp_path / "out.safetensors"
    before = _mixed(source, kind)
    report = convert(source, target, OPTIONS)
    after = load_file(target)
    decided = {layer.name: layer for layer in report.plan.layers}
    assert decided["blocks.0.done"].action == "copy" and decided["blocks.0.done"].reason == f"{kind} already"
    assert decided["blocks.0.todo"].format == "nvfp4" and decided["blocks.0.todo"].action == "quantize"
    for name, tensor in before.items():
        if ".done." in name and not name.endswith("comfy_quant"):
            assert after[name].dtype == tensor.dtype and after[name].shape == tensor.shape
            assert torch.equal(after[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    tag = json.loads(bytes(after["blocks.0.done.comfy_quant"].tolist()))
    assert tag == {"format": kind, "convrot": False, "params": {"convrot_groupsize": 256}}
    measured = {layer.name: layer for layer in report.verification.layers}
    assert measured["blocks.0.done"].identical and not measured["blocks.0.todo"].identical
    row = next(line for line in report.plan.to_markdown().splitlines() if ".done " in line)
    assert "dynamic" not in row


@pytest.mark.parametrize("kind", STORED)
def test_a_file_with_nothing_left_to_convert_is_refused(kind: str, tmp_path: Path) -> None:
    _mixed(tmp_path / "done.safetensors", kind, plain=False)
    with pytest.raises(PlanError, match=f"holds {kind} already .*blocks.0.done"):
        convert(tmp_path / "done.safetensors", tmp_path / "out.safetensors", OPTIONS)


@pytest.mark.parametrize(
    ("kind", "gone"), [("nvfp4", "weight_scale"), ("nvfp4", "weight_scale_2"), ("mxfp8", "weight_scale")]
)
def test_a_carried_layer_without_its_scales_is_refused(kind: str, gone: str, tmp_path: Path) -> None:
    _mixed(tmp_path / "mixed.safetensors", kind, leave_out=gone)
    with pytest.raises(PlanError, match=f"is {kind} without its {gone}"):
        convert(tmp_path / "mixed.safetensors", tmp_path / "out.safetensors", OPTIONS)


@pytest.mark.parametrize("suffix", ["weight", "weight_scale", "weight_scale_2", "input_scale", "comfy_quant"])
def test_verify_compares_every_byte_of_a_carried_layer(suffix: str, tmp_path: Path) -> None:
    source, target = tmp_path / "mixed.safetensors", tmp_path / "out.safetensors"
    _mixed(source, "nvfp4")
    convert(source, target, OPTIONS)
    with open_source(target) as written:
        metadata, tensors = written.metadata, {name: written.read(name) for name in written.tensors}
    name = f"blocks.0.done.{suffix}"
    if suffix == "comfy_quant":
        tensors[name] = torch.tensor(list(b'{"format":"nvfp4"}'), dtype=torch.uint8)
        header: dict[str, Any] = json.loads(metadata["_quantization_metadata"])
        header["layers"]["blocks.0.done"] = {"format": "nvfp4"}
        metadata = {**metadata, "_quantization_metadata": json.dumps(header)}
    else:
        tensors[name].reshape(-1).view(torch.uint8)[-1] ^= 1
    save_file(tensors, target, metadata=metadata)
    assert any("blocks.0.done" in problem for problem in verify(source, target).problems)


def test_a_calibration_fits_a_file_with_packed_layers(tmp_path: Path) -> None:
    _mixed(tmp_path / "mixed.safetensors", "nvfp4")
    blocks = torch.nn.Module()
    blocks.done, blocks.todo = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)
    with open_source(tmp_path / "mixed.safetensors") as source:
        blocks.todo.weight = torch.nn.Parameter(source.read("blocks.0.todo.weight").float())
    root = torch.nn.Module()
    root.blocks = torch.nn.ModuleList([blocks])
    collector = Collector(root)
    with collector.observing(0.5):
        blocks.todo(blocks.done(torch.randn(4, 32)))
    with open_source(tmp_path / "mixed.safetensors") as source:
        plan = make_plan(source, OPTIONS, collector.finish(images=1))
    decided = {layer.name: layer for layer in plan.layers}
    assert decided["blocks.0.todo"].input_scale is not None and not plan.warnings


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_with_a_scale_for_each_row_cannot_stay_fp8(dtype: torch.dtype, tmp_path: Path) -> None:
    """comfy-kitchen's CUDA kernel asserts one scale a tensor; its Triton kernel would read the first only."""
    recipe = tmp_path / "mine.json"
    rules = [{"policy": "float8_e4m3fn", "match": ["stays"]}, {"policy": "nvfp4", "match": ["todo"]}]
    recipe.write_text(json.dumps({"block_names": ["blocks"], "rules": rules}))
    tensors = {f"blocks.0.{name}.weight": torch.randn(32, 32).to(dtype) for name in ("stays", "todo")}
    tensors |= {f"blocks.0.{name}.weight_scale": torch.rand(32, 1) + 0.5 for name in ("stays", "todo")}
    save_file(tensors, tmp_path / "rows.safetensors")
    with pytest.raises(PlanError, match="stays has 32 weight scales and should stay FP8"):
        convert(tmp_path / "rows.safetensors", tmp_path / "out.safetensors", Options(recipe=str(recipe)))
