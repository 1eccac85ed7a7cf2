"""Models in several files: joined exactly, and nothing read from outside of their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import convert, make_plan
from nvfp4_studio.converters.errors import PlanError, SourceError
from nvfp4_studio.converters.source import open_source

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
TENSORS = {
    FIRST: {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2).bfloat16()},
    SECOND: {"c": torch.arange(5)},
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with two shards and their index."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, tensors in TENSORS.items():
        save_file(tensors, folder / name, metadata={"format": "pt", "part": name})
    _index(folder, {tensor: name for name, tensors in TENSORS.items() for tensor in tensors})
    return folder


def _index(folder: Path, weight_map: object) -> Path:
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


@pytest.mark.parametrize(
    ("named", "removed"), [(INDEX, "none"), (".", "none"), (".", INDEX), (FIRST, "none"), (SECOND, INDEX)]
)
def test_shards_are_read_as_one_model(shards: Path, named: str, removed: str) -> None:
    (shards / removed).unlink(missing_ok=True)
    with open_source(shards / named) as source:
        assert source.metadata == {"format": "pt"}
        assert source.size == sum((shards / name).stat().st_size for name in TENSORS)
        assert [path.name for path in source.files] == [FIRST, SECOND]
        for tensors in TENSORS.values():
            for name, tensor in tensors.items():
                assert torch.equal(source.read(name), tensor)
                assert b"".join(source.chunks(name, 5)) == tensor.view(torch.uint8).numpy().tobytes()
        assert torch.equal(source.read_rows("a.weight", 1, 3), TENSORS[FIRST]["a.weight"][1:3])
        assert len(source.tensors) == 3


@pytest.mark.parametrize("named", ["pytorch_model.bin.index.json", ".", "pytorch_model-00002-of-00002.bin"])
def test_shards_of_pytorch_are_read_as_one_model(tmp_path: Path, named: str) -> None:
    placed = {}
    for number, tensors in enumerate(TENSORS.values(), 1):
        name = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(tensors, tmp_path / name)
        placed.update(dict.fromkeys(tensors, name))
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    with open_source(tmp_path / named) as source:
        for name, tensor in {**TENSORS[FIRST], **TENSORS[SECOND]}.items():
            assert torch.equal(source.read(name), tensor)
        assert len(source.tensors) == 3 and len(source.files) == 2


def test_one_shard_is_never_converted_alone(shards: Path) -> None:
    (shards / SECOND).unlink()
    with pytest.raises(SourceError, match="1 of 2 shards are missing"):
        open_source(shards / FIRST)


def test_the_stamp_changes_with_any_shard(shards: Path) -> None:
    with open_source(shards) as source:
        before = source.stamp()
    os.utime(shards / SECOND, ns=(1, 1))
    with open_source(shards) as source:
        assert source.stamp() != before and len(source.stamp()) == 2


BAD_MAPS = {
    "parent": ("../x.safetensors", "not in its own folder"),
    "absolute": ("/etc/passwd", "not in its own folder"),
    "windows path": ("..\\x.safetensors", "not in its own folder"),
    "windows drive": ("C:x.safetensors", "not in its own folder"),
    "itself": ("..", "not in its own folder"),
    "missing": ("gone.safetensors", "gone.safetensors, which is missing"),
    "empty": ("", "names no file"),
    "no text": (3, "names no file"),
    "control characters": ("a\x1b[2J", "names no file"),
    "no safetensors": (INDEX, "is not a safetensors file"),
}


@pytest.mark.parametrize(("shard", "said"), BAD_MAPS.values(), ids=BAD_MAPS)
def test_indexes_that_name_what_is_no_shard(shards: Path, shard: object, said: str) -> None:
    with pytest.raises(SourceError, match=said) as error:
        open_source(_index(shards, {"a.weight": FIRST, "c": shard}))
    assert str(error.value).isprintable()


def test_an_index_that_places_tensors_where_they_are_not(shards: Path) -> None:
    with pytest.raises(SourceError, match="places 2 tensors .* first d"):
        open_source(_index(shards, {"a.weight": FIRST, "d": FIRST, "c": FIRST}))


def test_links(shards: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (shards / SECOND).rename(outside)
    (shards / SECOND).symlink_to(outside)
    for named in (shards / INDEX, shards):
        with pytest.raises(SourceError, match="a link that leads out of its folder"):
            open_source(named)
    (shards / INDEX).unlink()
    with pytest.raises(SourceError, match="a link that leads out of its folder"):
        open_source(shards)
    (tmp_path / "linked").symlink_to(shards)
    (shards / SECOND).unlink()
    outside.rename(shards / "kept.bin")
    (shards / SECOND).symlink_to("kept.bin")
    open_source(tmp_path / "linked").close()


def test_the_links_of_a_hugging_face_cache(shards: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub" / "models--x--y"
    snapshot = root / "snapshots" / "0123" / "transformer"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for number, path in enumerate(sorted(shards.iterdir())):
        path.rename(root / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../../blobs/{number}")
    with open_source(root / "snapshots" / "0123") as source:
        assert len(source.tensors) == 3
    (snapshot / SECOND).unlink()
    (snapshot / SECOND).symlink_to(tmp_path / "hub")
    with pytest.raises(SourceError, match="leads out of its folder"):
        open_source(snapshot)


def test_a_tensor_in_two_shards(shards: Path) -> None:
    save_file({"c": torch.ones(2), "a.weight": torch.ones(2)}, shards / SECOND)
    with pytest.raises(SourceError, match=f"tensor a.weight is in two shards \\({FIRST}, {SECOND}\\)"):
        open_source(shards)


def test_numbered_shards_without_index_must_be_complete(shards: Path) -> None:
    (shards / INDEX).unlink()
    (shards / FIRST).unlink()
    with pytest.raises(SourceError, match="1 of 2 shards are missing \\(model-00001-of-00002"):
        open_source(shards)


def test_shards_that_disagree_about_formats(shards: Path) -> None:
    for number, name in enumerate(TENSORS):
        save_file(
            TENSORS[name], shards / name, metadata={"_quantization_metadata": json.dumps({"layers": {}, "n": number})}
        )
    with pytest.raises(SourceError, match="disagree about _quantization_metadata"):
        open_source(shards)


def test_folders_that_are_no_single_model(shards: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, shards / "ae.safetensors")
    with pytest.raises(SourceError, match=f"several models \\({INDEX}, ae.safetensors\\)|several models \\(ae"):
        open_source(shards)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="a folder without .safetensors files"):
        open_source(tmp_path / "empty")
    (tmp_path / "wan" / "transformer").mkdir(parents=True)
    (tmp_path / "wan" / "transformer_2").mkdir()
    with pytest.raises(SourceError, match="several diffusion models \\(transformer, transformer_2\\)"):
        open_source(tmp_path / "wan")


BAD_INDEXES = {
    "no JSON": (b"{", "is damaged"),
    "no table": (b"[]", 'no table "weight_map"'),
    "no map": (b'{"weight_map": {}}', 'no table "weight_map"'),
    "twice": (b'{"weight_map": {"a": "x", "a": "y"}}', "a name occurs twice"),
    "deep": (b"[" * 100_000, "is damaged"),
    "no UTF-8": (b'{"weight_map": {"\xff": "x"}}', "is damaged"),
    "too many": (json.dumps({"weight_map": {str(n): f"{n}.s" for n in range(500)}}).encode(), "names 500 shards"),
}


@pytest.mark.parametrize(("data", "said"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_files_that_are_no_index(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / INDEX).write_bytes(data)
    with pytest.raises(SourceError, match=said):
        open_source(tmp_path / INDEX)


def _diffusers(folder: Path, tensors: dict[str, torch.Tensor], name: str) -> Path:
    inside = folder / "transformer"
    inside.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    config: dict[str, Any] = {"_class_name": name, "_diffusers_version": "0.35.0"}
    (inside / "config.json").write_text(json.dumps(config))
    shards: dict[str, dict[str, torch.Tensor]] = {"x-00001-of-00002": {}, "x-00002-of-00002": {}}
    for number, (key, tensor) in enumerate(tensors.items()):
        shards[f"x-0000{number % 2 + 1}-of-00002"][key] = tensor
    for shard, held in shards.items():
        save_file(held, inside / f"{shard}.safetensors", metadata={"format": "pt"})
    return folder


def test_a_diffusers_folder_with_comfyuis_names_is_converted(tmp_path: Path) -> None:
    tensors = {"img_in.weight": torch.randn(64, 64), "txt_norm.weight": torch.ones(3584)}
    for block in range(2):
        for layer in ("img_mod.1", "attn.to_q", "attn.to_k", "img_mlp.net.2"):
            tensors[f"transformer_blocks.{block}.{layer}.weight"] = torch.randn(64, 64).bfloat16()
    folder = _diffusers(tmp_path / "qwen", tensors, "QwenImageTransformer2DModel")
    save_file(tensors, tmp_path / "single.safetensors", metadata={"format": "pt"})
    report = convert(folder, tmp_path / "a.safetensors")
    alone = convert(tmp_path / "single.safetensors", tmp_path / "b.safetensors")
    assert report.plan.family == "qwen-image" and report.verification.problems == ()
    assert [layer.outputs for layer in report.plan.layers if layer.format == "nvfp4"] != []
    with open_source(tmp_path / "a.safetensors") as one, open_source(tmp_path / "b.safetensors") as other:
        assert one.tensors.keys() == other.tensors.keys()
        for name in one.tensors:
            assert b"".join(one.chunks(name)) == b"".join(other.chunks(name))
    assert alone.verification.problems == ()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("FluxTransformer2DModel", ["x_embedder.weight", "transformer_blocks.0.attn.add_q_proj.weight"]),
        ("WanTransformer3DModel", ["blocks.0.attn1.to_q.weight", "blocks.1.attn1.to_q.weight"]),
    ],
)
def test_a_diffusers_folder_whose_names_comfyui_changes_is_refused(tmp_path: Path, name: str, keys: list[str]) -> None:
    folder = _diffusers(tmp_path / "model", {key: torch.randn(64, 64) for key in keys}, name)
    with open_source(folder) as source, pytest.raises(PlanError, match="single-file release"):
        make_plan(source)
