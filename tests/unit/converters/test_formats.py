"""Every stored format: comfy-kitchen's own bytes, what is refused, and whole conversions that verify."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_kitchen.backends.eager.quantization import rotate_int8_convrot_weight
from comfy_kitchen.tensor import (
    AsymW4A8Int8Layout,
    TensorCoreConvRotW4A4Layout,
    TensorCoreMXFP8Layout,
    TensorWiseINT8Layout,
)
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import Options, PlanError, convert, make_plan, open_source, verify
from nvfp4_studio.converters.errors import ConversionError
from nvfp4_studio.converters.formats import FORMATS, POLICIES, Encoding, InputScale, Weight, int8, pieces
from nvfp4_studio.converters.formats.weight import upcast
from nvfp4_studio.converters.rounding import nearest
from nvfp4_studio.converters.rounding.e2m1 import amax_of

Decoded = Callable[..., torch.Tensor]
Tensors = Mapping[str, torch.Tensor]
LAYOUTS: Mapping[str, tuple[Any, dict[str, object]]] = {
    "mxfp8": (TensorCoreMXFP8Layout, {}),
    "int8_tensorwise": (TensorWiseINT8Layout, {"per_channel": True}),
    "int8_convrot": (TensorWiseINT8Layout, {"per_channel": True, "convrot": True}),
    "convrot_w4a4": (TensorCoreConvRotW4A4Layout, {}),
    "asym_w4a8_int8": (AsymW4A8Int8Layout, {}),
}
LEAST_DB = {
    "float8_e4m3fn": 30,
    "nvfp4": 19,
    "mxfp8": 30,
    "int8_tensorwise": 38,
    "int8_convrot": 38,
    "convrot_w4a4": 15,
    "asym_w4a8_int8": 20,
}
"""About what Gaussian weights of one row scale reach, less a decibel or two."""


def gaussian(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
    return (torch.randn(rows, columns, generator=generator) * spread * 0.02).to(dtype)


def encoded(policy: str, weight: Weight) -> dict[str, torch.Tensor]:
    stored = POLICIES[policy]
    return stored.encode(weight, Encoding(nearest, fields=stored.POLICIES[policy]))


def db(weight: torch.Tensor, result: torch.Tensor) -> float:
    noise = (weight.double() - result.double()).square().sum()
    return float(10 * torch.log10(weight.double().square().sum() / noise))


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_encoded_is_what_was_declared_and_decodes(policy: str, decoded: Decoded) -> None:
    weight = gaussian(320, 512)
    stored = POLICIES[policy]
    parts = encoded(policy, Weight("layer", weight))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in parts.items()} == dict(
        stored.declare((320, 512), stored.POLICIES[policy])
    )
    assert set(stored.SCALES) < parts.keys()
    assert db(weight, decoded(stored.NAME, parts, (320, 512), **stored.POLICIES[policy])) > LEAST_DB[policy]


@pytest.mark.parametrize("policy", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bytes_and_values_are_comfy_kitchens(policy: str, dtype: torch.dtype, decoded: Decoded) -> None:
    weight = gaussian(288, 768, dtype)
    layout, options = LAYOUTS[policy]
    values, params = layout.quantize(weight.float(), **options)
    expected = {f"weight{suffix}": tensor for suffix, tensor in layout.state_dict_tensors(values, params).items()}
    parts = encoded(policy, Weight("layer", weight))
    assert parts.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(parts[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
    fields = POLICIES[policy].POLICIES[policy]
    theirs = layout.dequantize(values, params).float()
    assert torch.equal(decoded(POLICIES[policy].NAME, parts, (288, 768), **fields), theirs)


@pytest.mark.parametrize("policy", LAYOUTS)
def test_pieces_of_rows_do_not_change_the_bytes(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = Weight("layer", gaussian(320, 512))
    whole = encoded(policy, weight)
    monkeypatch.setattr(pieces, "WEIGHTS_AT_ONCE", 512 * 40)
    for name, tensor in encoded(policy, weight).items():
        assert torch.equal(tensor.view(torch.uint8), whole[name].view(torch.uint8)), name


@pytest.mark.parametrize("power", [1.5, 3.0])
def test_a_table_made_for_a_large_w4a8_weight_is_as_good_as_comfy_kitchens(power: float, decoded: Decoded) -> None:
    """Heavy tails after the rotation, so that the fixed table does not fit and one is made from a sample."""
    normal = torch.randn(5120, 1024, generator=torch.Generator().manual_seed(1))
    weight = rotate_int8_convrot_weight(normal.sign() * normal.abs().pow(power) * 0.02, 256)
    values, params = AsymW4A8Int8Layout.quantize(weight)
    parts = encoded("asym_w4a8_int8", Weight("layer", weight))
    assert not torch.equal(params.codebook, encoded("asym_w4a8_int8", Weight("l", gaussian(8, 256)))["weight_codebook"])
    fields = POLICIES["asym_w4a8_int8"].POLICIES["asym_w4a8_int8"]
    ours = db(weight, decoded("asym_w4a8_int8", parts, (5120, 1024), **fields))
    assert ours == pytest.approx(db(weight, AsymW4A8Int8Layout.dequantize(values, params)), abs=0.02)


FOUR_THREADS = """
from concurrent.futures import ThreadPoolExecutor
import torch
from nvfp4_studio.converters.formats import Encoding, Weight, w4a8_int8
from nvfp4_studio.converters.rounding import nearest
torch.set_num_threads(1)
encoding = Encoding(nearest, fields=w4a8_int8.POLICIES[w4a8_int8.NAME])
weights = [Weight(f"layer {index}", torch.randn(2048, 1024).bfloat16()) for index in range(4)]
w4a8_int8.encode(Weight("first", weights[0].stored[:8]), encoding)
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1000
before = peak()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda weight: w4a8_int8.encode(weight, encoding), weights))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak memory")
def test_four_threads_that_encode_w4a8_are_modest() -> None:
    """640 MB if each sampled 2²² weights; comfy-kitchen needs 80 bytes for each weight that it is given at once."""
    run = subprocess.run([sys.executable, "-c", FOUR_THREADS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 350


def test_the_fixed_table_of_a_large_w4a8_weight_is_comfy_kitchens() -> None:
    """ConvRot spreads outliers, so that even these weights are about normal."""
    weight = gaussian(5120, 1024, torch.float32)
    weight *= torch.where(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.002, 30.0, 1.0)
    values, params = AsymW4A8Int8Layout.quantize(weight)
    parts = encoded("asym_w4a8_int8", Weight("layer", weight))
    assert torch.equal(parts["weight_codebook"], params.codebook) and torch.equal(parts["weight"], values)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scales", ["none", "one", "rows"])
def test_fp8_sources_are_upcast_first(policy: str, scales: str) -> None:
    stored = (gaussian(64, 256, torch.float32) * 40).to(torch.float8_e4m3fn)
    scale = {"none": None, "one": torch.tensor(0.013), "rows": torch.linspace(0.01, 0.03, 64).reshape(-1, 1)}[scales]
    plain = encoded(policy, Weight("layer", upcast(stored, scale, "layer")))
    for name, tensor in encoded(policy, Weight("layer", stored, scale)).items():
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), plain[name].reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(policy: str, bad: float) -> None:
    weight = gaussian(64, 256)
    weight[40, 7] = bad
    with pytest.raises(ConversionError, match="layer hold NaN or infinity"):
        encoded(policy, Weight("layer", weight))


@pytest.mark.parametrize("policy", POLICIES)
def test_zeros_and_tiny_weights_have_scales_that_verify(policy: str, decoded: Decoded) -> None:
    weight = torch.zeros(64, 512)
    weight[3, 300] = 1e-6
    parts = encoded(policy, Weight("layer", weight))
    stored = POLICIES[policy]
    for suffix in stored.SCALES:
        assert bool(torch.isfinite(parts[suffix].float()).all()) and bool((parts[suffix].float() >= 0).all())
    values = decoded(stored.NAME, parts, (64, 512), **stored.POLICIES[policy])
    assert bool(torch.isfinite(values).all()) and float(amax_of(values)) < 1e-5


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        ("mxfp8", 1e-36),
        ("mxfp8", 1e-40),
        ("int8_tensorwise", 1e-31),
        ("int8_convrot", 1e-40),
        ("convrot_w4a4", 1e-11),
        ("convrot_w4a4", 1e-30),
        ("asym_w4a8_int8", 1e-9),
        ("asym_w4a8_int8", 1e-30),
        ("float8_e4m3fn", 1e-42),
        ("nvfp4", 1e-42),
    ],
)
def test_a_layer_too_small_for_a_formats_scales_is_named_with_the_way_out(
    policy: str, size: float, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    tiny = (torch.randn(256, 512, generator=generator).double() * size).float()
    save_file({"blocks.0.a.weight": gaussian(256, 512), "blocks.1.tiny.weight": tiny}, tmp_path / "in.safetensors")
    with pytest.raises(ConversionError, match=r"largest weight of layer blocks\.1\.tiny is \d\S+e-\d+.*policy keep"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe=_recipe(tmp_path, policy)))
    assert not (tmp_path / "out.safetensors").exists()
    rules = [{"policy": "keep", "match": [".tiny"]}, {"policy": policy, "match": [""]}]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"block_names": [""], "rules": rules}), "utf-8")
    report = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe=str(own)))
    assert {layer.name: layer.action for layer in report.plan.layers} == {
        "blocks.0.a": "quantize",
        "blocks.1.tiny": "copy",
    }


@pytest.mark.parametrize(
    ("policy", "shape", "reason"),
    [
        ("mxfp8", (64, 48), "64×48 is not divisible by 32"),
        ("mxfp8", (40, 64), "40×64 is not divisible by 32"),
        ("int8_tensorwise", (64, 72), "64×72 is not divisible by 8×16"),
        ("int8_convrot", (64, 320), "320 input channels are not divisible by ConvRot's 256"),
        ("convrot_w4a4", (64, 384), "384 input channels are not divisible by ConvRot's 256"),
        ("convrot_w4a4", (40, 256), "40 rows are not divisible by 16"),
        ("asym_w4a8_int8", (64, 384), "384 input channels are not divisible by ConvRot's 256"),
        ("asym_w4a8_int8", (4, 256), "4 rows are not divisible by 8"),
    ],
)
def test_what_a_format_cannot_hold_is_kept_with_the_reason(
    policy: str, shape: tuple[int, int], reason: str, tmp_path: Path
) -> None:
    save_file(
        {"blocks.0.a.weight": gaussian(*shape), "blocks.1.a.weight": gaussian(256, 512)}, tmp_path / "in.safetensors"
    )
    with open_source(tmp_path / "in.safetensors") as source:
        plan = make_plan(source, Options(recipe=_recipe(tmp_path, policy)))
    kept, changed = plan.layers
    assert (kept.action, kept.format) == ("copy", "bfloat16") and reason in kept.reason
    assert changed.action == "quantize" and changed.format == POLICIES[policy].NAME


@pytest.mark.parametrize("policy", LAYOUTS)
def test_a_whole_conversion_verifies_and_is_carried_over_by_the_next(policy: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    tensors = {f"blocks.{block}.{name}.weight": gaussian(512, 256, seed=block) for block in range(2) for name in "ab"}
    tensors["blocks.0.a.bias"] = torch.randn(512)
    save_file(tensors, source)
    report = convert(source, target, Options(recipe=_recipe(tmp_path, policy)))
    name = POLICIES[policy].NAME
    assert report.summary["formats"] == {name: 4} and report.summary["main_format"] == name
    assert report.summary["mean_sqnr_db"] > LEAST_DB[policy] and name in report.to_markdown()
    stored = load_file(target)
    tag = json.loads(bytes(stored["blocks.0.a.comfy_quant"].tolist()))
    assert tag == {"format": name, **POLICIES[policy].POLICIES[policy]}
    assert not any(key.endswith("input_scale") for key in stored)

    more = {**stored, "blocks.2.c.weight": gaussian(256, 256)}
    save_file(more, source)
    again = convert(source, tmp_path / "again.safetensors", Options(recipe="weight-only"))
    assert [layer.reason for layer in again.plan.layers if layer.format == name] == [f"{name} already"] * 4
    result = load_file(tmp_path / "again.safetensors")
    assert all(_same(tensor, result[key]) for key, tensor in stored.items())


def test_a_damaged_scale_is_found(tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({"blocks.0.a.weight": gaussian(256, 256)}, source)
    for policy in LAYOUTS:
        convert(source, target, Options(recipe=_recipe(tmp_path, policy)), overwrite=True)
        stored = load_file(target)
        scale = f"blocks.0.a.{POLICIES[policy].SCALES[0]}"
        stored[scale] = stored[scale][:-1].clone()
        save_file(stored, tmp_path / "damaged.safetensors", metadata=_metadata(target))
        problems = verify(source, tmp_path / "damaged.safetensors").problems
        assert len(problems) == 1 and f"{scale} has shape" in problems[0]


def test_limits_and_guard_concern_every_packing_format(tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    inside = {f"double_blocks.{block}.img_attn.qkv.weight": gaussian(256, 256) for block in range(2)}
    names = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(64)}
    save_file({"img_in.weight": gaussian(256, 256), **inside, **names}, path)
    for policy, kept in {"convrot_w4a4": True, "asym_w4a8_int8": True, "int8_convrot": False}.items():
        with open_source(path) as source:
            plan = make_plan(source, Options(recipe=_recipe(tmp_path, policy)))
        (first,) = (layer for layer in plan.layers if layer.name == "img_in")
        assert (first.action == "copy") is kept, "a shape that ComfyUI reads may stay the same, but not be packed"
        recipe = tmp_path / "limited.json"
        recipe.write_text(
            json.dumps({"rules": [{"policy": policy, "match": [""]}], "limits": {"minimum_width": 512}}), "utf-8"
        )
        with open_source(path) as source, pytest.raises(PlanError, match="quantizes no layer"):
            make_plan(source, Options(recipe=str(recipe)))


@pytest.mark.parametrize("shape", [(0, 256), (256, 0)])
def test_an_empty_matrix_is_kept(shape: tuple[int, int], tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({"blocks.0.a.weight": torch.empty(shape), "blocks.1.a.weight": gaussian(256, 256)}, source)
    for policy in POLICIES:
        report = convert(source, target, Options(recipe=_recipe(tmp_path, policy)), overwrite=True)
        assert [layer.action for layer in report.plan.layers] == ["copy", "quantize"]


def test_formats_that_measure_their_input_take_no_scale() -> None:
    assert {name for name, stored in FORMATS.items() if stored.INPUT_SCALE is InputScale.NONE} == {
        "mxfp8",
        "int8_tensorwise",
        "convrot_w4a4",
        "asym_w4a8_int8",
    }


def test_convrot_spreads_outliers() -> None:
    """The reason for the variant: a few large input channels no longer set the scale of every row."""
    weight = gaussian(128, 512, torch.float32)
    weight[:, ::100] *= 30
    results = {}
    for policy in ("int8_tensorwise", "int8_convrot"):
        parts = encoded(policy, Weight("layer", weight))
        fields = int8.POLICIES[policy]
        params = TensorWiseINT8Layout.Params(
            scale=parts["weight_scale"], orig_dtype=torch.float32, orig_shape=(128, 512), convrot=bool(fields)
        )
        results[policy] = db(weight, TensorWiseINT8Layout.dequantize(parts["weight"], params))
    assert results["int8_convrot"] > results["int8_tensorwise"] + 3


def _recipe(folder: Path, policy: str) -> str:
    path = folder / f"{policy}.json"
    path.write_text(json.dumps({"block_names": [""], "rules": [{"policy": policy, "match": [""]}]}), "utf-8")
    return str(path)


def _metadata(path: Path) -> dict[str, str]:
    with open_source(path) as source:
        return dict(source.metadata)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )
