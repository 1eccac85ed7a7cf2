"""What is quantized already, or lies outside the diffusion model, keeps its bytes, scales and tags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.converters import ConversionError, Options, PlanError, SourceError, convert, verify

FP8 = torch.float8_e4m3fn
OPTIONS = Options(recipe="weight-only")


def _header(path: Path) -> dict[str, dict[str, object]]:
    with safe_open(path, "pt") as file:
        layers: dict[str, dict[str, object]] = json.loads(file.metadata()["_quantization_metadata"])["layers"]
    return layers


def _convert(
    tmp_path: Path, tensors: dict[str, torch.Tensor], header: object = None, options: Options = OPTIONS
) -> dict[str, torch.Tensor]:
    """Convert ``tensors`` beside one plain layer that gives the recipe something to do; the result is verified."""
    tensors = {"model.diffusion_model.blocks.0.a.weight": torch.randn(64, 64), **tensors}
    tensors |= {f"model.diffusion_model.filler.{index}": torch.zeros(1) for index in range(6)}
    metadata = {} if header is None else {"_quantization_metadata": json.dumps({"layers": header})}
    save_file(tensors, tmp_path / "in.safetensors", metadata=metadata)
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", options, overwrite=True)
    assert verify(tmp_path / "in.safetensors", tmp_path / "out.safetensors").problems == ()
    return load_file(tmp_path / "out.safetensors")


def test_legacy_fp8_of_other_ranks_keeps_its_scale_in_todays_form(tmp_path: Path) -> None:
    bank = torch.randn(2, 16, 16).to(FP8)
    out = _convert(
        tmp_path,
        {
            "model.diffusion_model.moe.weight": bank,
            "model.diffusion_model.moe.scale_weight": torch.tensor(0.25),
            "model.diffusion_model.scaled_fp8": torch.zeros(1).to(FP8),
        },
    )
    assert out["model.diffusion_model.moe.weight_scale"] == 0.25
    assert torch.equal(out["model.diffusion_model.moe.weight"].view(torch.uint8), bank.view(torch.uint8))
    assert _header(tmp_path / "out.safetensors")["model.diffusion_model.moe"] == {"format": "float8_e4m3fn"}
    assert not any(name.endswith(("scale_weight", "scaled_fp8")) for name in out)


def test_expert_banks_named_only_in_the_header_get_both_forms(tmp_path: Path) -> None:
    tag = {"format": "float8_e4m3fn", "num_experts": 2}
    name = "model.diffusion_model.moe"
    out = _convert(
        tmp_path, {f"{name}.weight": torch.ones(2, 16, 16).to(FP8), f"{name}.weight_scale": torch.ones(2)}, {name: tag}
    )
    assert json.loads(bytes(out[f"{name}.comfy_quant"].tolist())) == _header(tmp_path / "out.safetensors")[name] == tag
    assert out[f"{name}.weight_scale"].shape == (2,)


@pytest.mark.parametrize("prefix", ["vae.decoder.", "something.else.", "text_encoders.t5xxl.transformer."])
@pytest.mark.parametrize("form", ["today", "legacy"])
def test_scaled_fp8_outside_the_diffusion_model_keeps_its_scale(prefix: str, form: str, tmp_path: Path) -> None:
    weight = torch.randn(32, 32).to(FP8)
    scale = {"today": "weight_scale", "legacy": "scale_weight"}[form]
    tensors = {f"{prefix}fc.weight": weight, f"{prefix}fc.{scale}": torch.tensor(0.5)}
    if form == "legacy":
        tensors[f"{prefix}scaled_fp8"] = torch.zeros(2).to(FP8)
    header = {f"{prefix}fc": {"format": "float8_e4m3fn"}} if form == "today" else None
    out = _convert(tmp_path, tensors, header)
    assert out[f"{prefix}fc.weight_scale"] == 0.5
    wanted = {"format": "float8_e4m3fn"} | ({"full_precision_matrix_mult": True} if form == "legacy" else {})
    assert _header(tmp_path / "out.safetensors")[f"{prefix}fc"] == wanted


def test_raw_fp8_outside_the_diffusion_model_is_left_alone(tmp_path: Path) -> None:
    out = _convert(tmp_path, {"vae.fc.weight": torch.randn(32, 32).to(FP8)})
    assert "vae.fc.weight_scale" not in out and "vae.fc" not in _header(tmp_path / "out.safetensors")


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("prefix", ["text_encoders.qwen.", "model.diffusion_model."])
def test_layers_that_are_nvfp4_already_keep_everything(prefix: str, tagged: bool, tmp_path: Path) -> None:
    source = tmp_path / "first.safetensors"
    save_file({"blocks.0.b.weight": torch.randn(32, 64)}, source)
    convert(source, tmp_path / "first-nvfp4.safetensors", OPTIONS)
    stored = {
        f"{prefix}b.{name.rpartition('.')[2]}": tensor
        for name, tensor in load_file(tmp_path / "first-nvfp4.safetensors").items()
        if not name.endswith("comfy_quant")
    }
    stored[f"{prefix}b.pre_quant_scale"] = torch.rand(64) + 0.1
    out = _convert(tmp_path, stored, {f"{prefix}b": {"format": "nvfp4", "note": "kept"}} if tagged else None)
    for name, tensor in stored.items():
        assert torch.equal(out[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
    expected = {"format": "nvfp4", "note": "kept"} if tagged else {"format": "nvfp4"}
    assert _header(tmp_path / "out.safetensors")[f"{prefix}b"] == expected


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_pre_quant_scale_of_another_format_is_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    prefix = "model.diffusion_model.blocks.0."
    stored = {f"{prefix}b.weight": torch.randn(32, 64).to(dtype), f"{prefix}b.pre_quant_scale": torch.ones(64)}
    with pytest.raises(PlanError, match=r"blocks\.0\.b of .* has a pre_quant_scale, which ComfyUI"):
        _convert(tmp_path, stored)


def test_integer_tables_are_no_obstacle(tmp_path: Path) -> None:
    table = torch.arange(12).reshape(3, 4)
    assert torch.equal(
        _convert(tmp_path, {"model.diffusion_model.index.weight": table})["model.diffusion_model.index.weight"], table
    )


def test_e5m2_never_multiplies_in_fp8(tmp_path: Path) -> None:
    name = "model.diffusion_model.blocks.0.odd"
    recipe = tmp_path / "r.json"
    rules = [{"policy": "float8_e4m3fn", "match": [".odd"]}, {"policy": "nvfp4", "match": [""]}]
    recipe.write_text(json.dumps({"block_names": [""], "rules": rules}))
    tensors = {
        f"{name}.weight": torch.randn(32, 32).to(torch.float8_e5m2),
        f"{name}.weight_scale": torch.tensor(1.0),
        f"{name}.input_scale": torch.tensor(1.0),
        "model.diffusion_model.blocks.0.a.weight": torch.randn(64, 64),
    }
    tensors |= {f"model.diffusion_model.filler.{index}": torch.zeros(1) for index in range(6)}
    save_file(tensors, tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe=str(recipe)))
    tag = _header(tmp_path / "out.safetensors")[name]
    assert tag == {"format": "float8_e5m2", "full_precision_matrix_mult": True}
    assert f"{name}.input_scale" not in load_file(tmp_path / "out.safetensors")


def test_scales_that_nobody_reads_are_named(tmp_path: Path) -> None:
    tensors = {"blocks.0.a.weight": torch.randn(64, 64).to(FP8), "blocks.0.a.weight_scale_inv": torch.ones(1, 1)}
    save_file(tensors, tmp_path / "in.safetensors")
    with pytest.raises(SourceError, match="block-wise scales"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", OPTIONS)


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, float("inf")])
@pytest.mark.parametrize("suffix", ["weight_scale", "input_scale"])
def test_a_damaged_scale_is_the_sources_fault(suffix: str, value: float, tmp_path: Path) -> None:
    scales = {"weight_scale": torch.tensor(1.0), suffix: torch.tensor(value)}
    tensors = {f"text_encoders.a.fc.{name}": tensor for name, tensor in scales.items()}
    with pytest.raises(SourceError, match=f"{suffix} is not a positive number"):
        _convert(tmp_path, {"text_encoders.a.fc.weight": torch.randn(32, 32).to(FP8), **tensors})
    assert not (tmp_path / "out.safetensors").exists()


def test_an_input_scale_of_several_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has 3 values where one is expected"):
        _convert(tmp_path, {"vae.fc.weight": torch.randn(32, 32).to(FP8), "vae.fc.input_scale": torch.ones(3)})


def test_a_sources_own_full_precision_flag_stays(tmp_path: Path) -> None:
    name = "model.diffusion_model.blocks.0.kept"
    recipe = tmp_path / "r.json"
    rules = [{"policy": "float8_e4m3fn", "match": [".kept"]}, {"policy": "nvfp4", "match": [""]}]
    recipe.write_text(json.dumps({"block_names": [""], "rules": rules}))
    tag = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    tensors = {f"{name}.weight": torch.randn(32, 32).to(FP8), f"{name}.weight_scale": torch.tensor(1.0)}
    tensors |= {
        f"{name}.input_scale": torch.tensor(0.5),
        "model.diffusion_model.blocks.0.a.weight": torch.randn(64, 64),
    }
    tensors |= {f"model.diffusion_model.filler.{index}": torch.zeros(1) for index in range(6)}
    save_file(
        tensors, tmp_path / "in.safetensors", metadata={"_quantization_metadata": json.dumps({"layers": {name: tag}})}
    )
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Options(recipe=str(recipe)))
    assert _header(tmp_path / "out.safetensors")[name] == tag


@pytest.mark.parametrize("kind", ["hard link", "symbolic link"])
def test_a_temporary_name_that_is_somebody_elses_is_not_written_through(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "in.safetensors"
    save_file({"blocks.0.a.weight": torch.randn(64, 64)}, source)
    before = source.read_bytes()
    temporary = tmp_path / ".out.safetensors.part"
    if kind == "hard link":
        temporary.hardlink_to(source)
    else:
        temporary.symlink_to(source)
    with pytest.raises(ConversionError, match="the source itself"):
        convert(source, tmp_path / "out.safetensors", OPTIONS)
    assert source.read_bytes() == before and temporary.exists()


def test_a_dangling_link_is_a_target_that_exists(tmp_path: Path) -> None:
    source = tmp_path / "in.safetensors"
    save_file({"blocks.0.a.weight": torch.randn(64, 64)}, source)
    (tmp_path / "out.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConversionError, match="exists already"):
        convert(source, tmp_path / "out.safetensors", OPTIONS)


def test_per_row_scales_that_would_have_to_stay_are_refused(tmp_path: Path) -> None:
    name = "model.diffusion_model.blocks.0.kept"
    recipe = tmp_path / "r.json"
    rules = [{"policy": "float8_e4m3fn", "match": [".kept"]}, {"policy": "nvfp4", "match": [""]}]
    recipe.write_text(json.dumps({"block_names": [""], "rules": rules}))
    tensors = {f"{name}.weight": torch.randn(32, 32).to(FP8), f"{name}.weight_scale": torch.ones(32, 1)}
    with pytest.raises(PlanError, match="32 weight scales and should stay FP8"):
        _convert(tmp_path, tensors, options=Options(recipe=str(recipe)))


FORMS = {
    "BF16": {"weight_scale": torch.tensor(0.5, dtype=torch.bfloat16)},
    "one a row": {"weight_scale": torch.rand(32, 1) + 0.1},
    "one a column": {"weight_scale": torch.rand(1, 32) + 0.1},
    "blocks of 16": {"weight_scale": torch.rand(2, 2) + 0.1},
    "block-wise": {"weight_scale_inv": torch.rand(2, 2) + 0.1},
    "with an input_scale": {
        "weight_scale": torch.tensor([0.5]),
        "input_scale": torch.tensor(0.25, dtype=torch.float16),
    },
    "old": {"scale_weight": torch.rand(32, 1, dtype=torch.float16) + 0.1, "scaled_fp8": torch.zeros(2)},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("prefix", ["vae.decoder.", "something.else.", "text_encoders.t5xxl.transformer."])
def test_fp8_outside_the_diffusion_model_keeps_scales_of_any_form(
    prefix: str, form: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    weight = torch.randn(32, 32).to(FP8)
    scales = {f"{prefix}{'' if name == 'scaled_fp8' else 'fc.'}{name}": tensor for name, tensor in form.items()}
    out = _convert(tmp_path, {f"{prefix}fc.weight": weight, **scales})
    expected = {f"{prefix}fc.weight": weight} | {
        name.replace("scale_weight", "weight_scale"): tensor
        for name, tensor in scales.items()
        if not name.endswith("scaled_fp8")
    }
    for name, tensor in expected.items():
        assert out[name].dtype == tensor.dtype and out[name].shape == tensor.shape
        assert torch.equal(out[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
    added = {name for name in out if name.startswith(prefix)} - expected.keys()
    readable = prefix.startswith("text_encoders.") and form.get("weight_scale", torch.ones(2)).numel() == 1
    assert added == ({f"{prefix}fc.comfy_quant"} if readable or "scaled_fp8" in form else set())


def test_a_text_encoder_that_is_asked_for_needs_scales_that_can_be_read(tmp_path: Path) -> None:
    prefix = "text_encoders.t5xxl.transformer."
    tensors = {f"{prefix}encoder.final_layer_norm.weight": torch.ones(64), f"{prefix}shared.weight": torch.ones(9, 64)}
    for block in range(6):
        name = f"{prefix}encoder.block.{block}.layer.1.DenseReluDense.wi_0"
        tensors[f"{name}.weight"] = torch.randn(64, 64).to(FP8)
        tensors[f"{prefix}encoder.block.{block}.layer.0.SelfAttention.q.weight"] = torch.randn(64, 64)
    asked = Options(recipe="weight-only", text_encoder="nvfp4")
    for suffix, shape, said in (
        ("weight_scale_inv", (1, 1), "layer .*block.3.* has block-wise scales"),
        ("weight_scale", (1, 64), r"FP8 weight scales of shape \[1, 64\]"),
    ):
        scale = {f"{prefix}encoder.block.3.layer.1.DenseReluDense.wi_0.{suffix}": torch.ones(shape)}
        _convert(tmp_path, tensors | scale)
        with pytest.raises(SourceError, match=said):
            _convert(tmp_path, tensors | scale, options=asked)


def test_block_wise_scales_of_an_expert_bank_are_named(tmp_path: Path) -> None:
    bank = {"model.diffusion_model.moe.weight": torch.ones(2, 16, 16).to(FP8)}
    with pytest.raises(SourceError, match="layer model.diffusion_model.moe has block-wise scales"):
        _convert(tmp_path, bank | {"model.diffusion_model.moe.weight_scale_inv": torch.ones(2, 1, 1)})


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "vae."])
def test_scales_left_behind_by_a_dequantization_are_removed(prefix: str, tmp_path: Path) -> None:
    weight = torch.randn(20, 20).bfloat16()
    out = _convert(tmp_path, {f"{prefix}odd.weight": weight, f"{prefix}odd.weight_scale": torch.tensor(2.0)})
    assert torch.equal(out[f"{prefix}odd.weight"], weight) and f"{prefix}odd.weight_scale" not in out
