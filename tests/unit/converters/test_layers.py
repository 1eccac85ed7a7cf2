"""Recognition of the ways in which FP8 checkpoints are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters.errors import SourceError
from nvfp4_studio.converters.layers import Carried, recognise
from nvfp4_studio.converters.source import open_source

Checkpoint = Callable[..., Path]
MOD = "double_blocks.1.img_mod.lin"


def test_raw_cast_has_neither_scale_nor_tag(checkpoint: Checkpoint) -> None:
    with open_source(checkpoint("raw")) as source:
        layer = recognise(source).layers[MOD]
    assert (layer.format, layer.scale, layer.tag) == ("float8_e4m3fn", None, None)


def test_todays_form(checkpoint: Checkpoint) -> None:
    with open_source(checkpoint("scaled")) as source:
        found = recognise(source)
    layer = found.layers[MOD]
    assert layer.scale == f"{MOD}.weight_scale" and layer.tag == {"format": "float8_e4m3fn"}
    assert {f"{MOD}.weight_scale", f"{MOD}.comfy_quant"} <= found.descriptions
    assert found.layers["img_in"].format == "bfloat16" and found.layers["img_in"].scale is None


def test_legacy_form_and_its_input_scale_of_one_that_means_none(checkpoint: Checkpoint) -> None:
    with open_source(checkpoint("legacy")) as source:
        found = recognise(source)
    assert found.layers[MOD].scale == f"{MOD}.scale_weight"
    assert found.layers[MOD].input_scale == f"{MOD}.scale_input"
    assert found.layers["double_blocks.0.img_mod.lin"].input_scale is None
    assert "scaled_fp8" in found.descriptions


def test_legacy_marker_of_two_elements_means_full_precision(tmp_path: Path) -> None:
    tensors = {"a.b.weight": torch.ones(16, 16).to(torch.float8_e4m3fn), "a.b.scale_weight": torch.tensor(0.5)}
    tensors["a.scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "x.safetensors")
    with open_source(tmp_path / "x.safetensors") as source:
        assert recognise(source).layers["a.b"].full_precision


def test_the_nearest_legacy_marker_counts_and_none_beside_a_layer(tmp_path: Path) -> None:
    fp8, deep = torch.ones(16, 16).to(torch.float8_e4m3fn), "a." * 50_000 + "b"
    tensors = {f"{layer}.weight": fp8.clone() for layer in ("a.b", "c.d", deep)}
    tensors |= {f"{layer}.scale_weight": torch.tensor(0.5) for layer in ("a.b", "c.d", deep)}
    tensors |= {"scaled_fp8": torch.zeros(2), "a.scaled_fp8": torch.zeros(0), "c.d.e.scaled_fp8": torch.zeros(0)}
    save_file(tensors, tmp_path / "x.safetensors")
    with open_source(tmp_path / "x.safetensors") as source:
        found = recognise(source).layers
    assert [found[layer].full_precision for layer in ("a.b", "c.d", deep)] == [False, True, False]


def test_the_header_wins_over_tensors_as_in_the_loader(tmp_path: Path) -> None:
    tag = json.dumps({"format": "float8_e4m3fn"}).encode()
    tensors = {
        "a.weight": torch.ones(16, 16).to(torch.float8_e4m3fn),
        "a.weight_scale": torch.tensor(1.0),
        "a.comfy_quant": torch.tensor(list(tag), dtype=torch.uint8),
    }
    header = {"layers": {"a": {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}}}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"_quantization_metadata": json.dumps(header)})
    with open_source(tmp_path / "x.safetensors") as source:
        assert recognise(source).layers["a"].full_precision


def test_header_names_without_the_keys_prefix_are_understood(tmp_path: Path) -> None:
    tensors = {"model.diffusion_model.a.weight": torch.ones(16, 16).to(torch.float8_e4m3fn)}
    header = {"layers": {"a": {"format": "float8_e4m3fn"}}}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"_quantization_metadata": json.dumps(header)})
    with open_source(tmp_path / "x.safetensors") as source:
        assert recognise(source).layers["model.diffusion_model.a"].tag == {"format": "float8_e4m3fn"}


def test_expert_banks_keep_their_tensors_and_tags(tmp_path: Path) -> None:
    tensors = {
        "moe.weight": torch.ones(2, 16, 16).to(torch.float8_e4m3fn),
        "moe.weight_scale": torch.ones(2),
    }
    header = {"layers": {"moe": {"format": "float8_e4m3fn", "num_experts": 2}}}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"_quantization_metadata": json.dumps(header)})
    with open_source(tmp_path / "x.safetensors") as source:
        found = recognise(source)
    tag = {"format": "float8_e4m3fn", "num_experts": 2}
    assert found.carried == {"moe": Carried(tag, ("moe.weight_scale",))}
    assert not found.layers


@pytest.mark.parametrize("shape", [(16, 16), (2, 16, 16)], ids=["matrix", "expert bank"])
@pytest.mark.parametrize("names", [("weight_scale", "scale_weight"), ("input_scale", "scale_input")])
def test_a_scale_under_both_of_its_names_is_refused(
    tmp_path: Path, shape: tuple[int, ...], names: tuple[str, str]
) -> None:
    tensors = {"a.weight": torch.ones(shape).to(torch.float8_e4m3fn)}
    tensors |= {f"a.{name}": torch.tensor(0.5 + index) for index, name in enumerate(names)}
    save_file(tensors, tmp_path / "x.safetensors")
    with (
        open_source(tmp_path / "x.safetensors") as source,
        pytest.raises(SourceError, match="layer a has both") as said,
    ):
        recognise(source)
    assert all(name in str(said.value) for name in names)


def test_an_old_input_scale_of_one_that_means_none_is_no_second_name(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(16, 16).to(torch.float8_e4m3fn), "a.input_scale": torch.tensor(0.5)}
    save_file(tensors | {"a.scale_input": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    with open_source(tmp_path / "x.safetensors") as source:
        assert recognise(source).layers["a"].input_scale == "a.input_scale"


BAD = {
    "not JSON": ("{", "holds no JSON"),
    "a list": ("[]", "holds list where a table"),
    "layers no table": ('{"layers": []}', "lists no layers"),
    "entry no table": ('{"layers": {"a": 1}}', "malformed entry for 'a'"),
    "no format": ('{"layers": {"a": {}}}', "names no format"),
    "stale": ('{"layers": {"a": {"format": "nvfp4"}}}', "tagged 'nvfp4' but stored as float8_e4m3fn"),
}


@pytest.mark.parametrize(("header", "said"), BAD.values(), ids=BAD)
def test_metadata_that_cannot_be_believed(tmp_path: Path, header: str, said: str) -> None:
    tensors = {"a.weight": torch.ones(16, 16).to(torch.float8_e4m3fn)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"_quantization_metadata": header})
    with open_source(tmp_path / "x.safetensors") as source, pytest.raises(SourceError, match=said):
        recognise(source)
