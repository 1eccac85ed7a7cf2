"""PyTorch's own files: read by offset, never run, never mapped."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.errors import SourceError
from nvfp4_studio.converters.source import open_source

Checkpoint = Callable[..., Path]


def _weights() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 4, generator=generator)
    return {
        "a.weight": weight,
        "tied.weight": weight,
        "rows": weight[2:4],
        "turned": torch.randn(5, 3, generator=generator).bfloat16().t(),
        "turned8": torch.randn(5, 3, generator=generator).to(torch.float8_e4m3fn).t(),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "scalar": torch.tensor(2.5),
        "one value everywhere": torch.tensor([1.5]).expand(40, 30),
        "one row everywhere": torch.randn(1, 6, generator=generator).to(torch.float8_e4m3fn).expand(50, 6),
        "one column everywhere": torch.randn(7, 1, generator=generator).bfloat16().expand(7, 8),
        "empty": torch.zeros(0, 3),
        "integers": torch.arange(4),
    }


NESTS: dict[str, Callable[[Any], Any]] = {
    "bare": lambda w: w,
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "twice": lambda w: {"state_dict": {"model": {"state_dict": w}}, "optimizer": {"x": torch.ones(1)}},
    "model": lambda w: {"model": w, "optimizer": {"state": torch.ones(1)}, "step": 4},
    "any name": lambda w: {"generator_ema": w, "config": {"depth": 3}},
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".PT"])
def test_every_tensor_is_read_exactly(tmp_path: Path, nest: Callable[[Any], Any], suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save(nest(_weights()), path)
    with open_source(path) as source:
        assert source.tensors.keys() == _weights().keys() and source.metadata == {}
        for name, tensor in _weights().items():
            plain = tensor.detach().contiguous()
            read = source.read(name)
            assert read.dtype == plain.dtype and read.shape == plain.shape and read.is_contiguous()
            stored = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
            assert read.reshape(-1).view(torch.uint8).numpy().tobytes() == stored
            assert b"".join(source.chunks(name, 7)) == stored
            if plain.ndim and len(plain) > 2:
                assert torch.equal(source.read_rows(name, 1, 3).float(), plain[1:3].float())


def test_conversion_gives_the_same_file_as_from_safetensors(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("bf16")
    torch.save({"state_dict": load_file(source)}, tmp_path / "source.pt")
    for path, name in ((source, "a"), (tmp_path / "source.pt", "b")):
        assert convert(path, tmp_path / f"{name}.safetensors", Options()).verification.problems == ()
    one, other = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert one.keys() == other.keys()
    assert all(
        torch.equal(one[name].reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)) for name in one
    )


def test_an_expanded_weight_is_converted(tmp_path: Path) -> None:
    row = torch.randn(1, 64, generator=torch.Generator().manual_seed(4))
    torch.save(
        {"blocks.0.a.weight": row.expand(64, 64), "blocks.0.a.bias": torch.zeros(1).expand(64)}, tmp_path / "x.pt"
    )
    report = convert(tmp_path / "x.pt", tmp_path / "y.safetensors", Options(recipe="weight-only"))
    assert [layer.action for layer in report.plan.layers] == ["quantize"]
    assert torch.equal(load_file(tmp_path / "y.safetensors")["blocks.0.a.bias"], torch.zeros(64))


class _Payload:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"a.weight": torch.ones(2), "x": _Payload(marker)}, tmp_path / "x.pt")
    with pytest.raises(SourceError, match="needs pickle.*save it as .safetensors"):
        open_source(tmp_path / "x.pt")
    (tmp_path / "y.ckpt").write_bytes(pickle.dumps(_Payload(marker)))
    with pytest.raises(SourceError, match="before 1.6"):
        open_source(tmp_path / "y.ckpt")
    assert not marker.exists()


def test_a_whole_model_needs_pickle(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(SourceError, match="needs pickle"):
        open_source(tmp_path / "x.pt")


def test_a_torchscript_program_is_not_opened(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(SourceError, match="is a TorchScript program"):
        open_source(tmp_path / "x.pt")


WITHOUT_WEIGHTS = {
    "a list": [torch.ones(1)],
    "numbers": {"a": 1},
    "two tables": {"g": {"a": torch.ones(1)}, "d": {"a": torch.ones(1)}},
}


@pytest.mark.parametrize("saved", WITHOUT_WEIGHTS.values(), ids=WITHOUT_WEIGHTS)
def test_what_holds_no_single_table_of_weights(tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(SourceError, match="holds no table of weights"):
        open_source(tmp_path / "x.pt")


def _rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    data = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(data, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    path.write_bytes(data.getvalue())
    return path


def test_a_storage_that_is_too_short(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(100.0)}, tmp_path / "x.pt")
    _rewritten(tmp_path / "x.pt", lambda name, data: data[:-4] if name.endswith("data/0") else data)
    with pytest.raises(SourceError, match="tensor a reaches beyond the bytes stored|is damaged"):
        open_source(tmp_path / "x.pt")


def test_forms_that_cannot_be_read_by_offset(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(100.0)}, tmp_path / "x.pt")
    _rewritten(tmp_path / "x.pt", lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(SourceError, match="is compressed"):
        open_source(tmp_path / "x.pt")
    torch.save({"a": torch.arange(100.0)}, tmp_path / "y.pt")
    _rewritten(tmp_path / "y.pt", lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(SourceError, match="big-endian"):
        open_source(tmp_path / "y.pt")
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "z.pt")
    with pytest.raises(SourceError, match="x.pt|z.pt"):
        open_source(tmp_path / "z.pt")
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "e.pt")
    with pytest.raises(SourceError, match="tensor a of shape .* repeats 4 stored bytes to 4398046511104, more than"):
        open_source(tmp_path / "e.pt")
    torch.save({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / "c.pt")
    with pytest.raises(SourceError, match="complex128"):
        open_source(tmp_path / "c.pt")
    with pytest.raises(SourceError, match="cannot be opened: No such file"):
        open_source(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:-30])
    with pytest.raises(SourceError, match="cut.pt"):
        open_source(tmp_path / "cut.pt")
