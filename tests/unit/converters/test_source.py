"""Reading headers: good files are read exactly, bad files get one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nvfp4_studio.converters.errors import SourceError
from nvfp4_studio.converters.source import open_source


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(7, 5),
        "b": torch.randn(3).bfloat16(),
        "c": torch.randn(8, 16).to(torch.float8_e4m3fn),
        "d": torch.tensor(3.5),
        "e": torch.zeros(0, 4),
        "f": torch.arange(6, dtype=torch.int64).reshape(2, 3),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"k": "v"})
    with open_source(tmp_path / "x.safetensors") as source:
        assert source.metadata == {"k": "v"}
        for name, tensor in tensors.items():
            read = source.read(name)
            assert read.dtype == tensor.dtype and read.shape == tensor.shape
            assert torch.equal(read.float(), tensor.float())
        assert torch.equal(source.read_rows("a", 2, 5), tensors["a"][2:5])
        assert b"".join(source.chunks("a", 16)) == tensors["a"].numpy().tobytes()


BAD = {
    "too short": (b"abc", "has 3 bytes and is not a safetensors file"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "is not a safetensors file"),
    "header larger than the file": ((1000).to_bytes(8, "little") + b"{}", "announces a header of 1000 bytes"),
    "header beyond the limit": ((1 << 40).to_bytes(8, "little") + b"{}", "is not a safetensors file"),
    "no JSON": ((4).to_bytes(8, "little") + b"{abc", "damaged header"),
    "deep nesting": ((200_001).to_bytes(8, "little") + b'{"a":' + b"[" * 199_996, "damaged header"),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_what_is_no_safetensors_file(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=said):
        open_source(path)


HEADERS = {
    "truncated": ({"a": _entry(shape=[8], offsets=[0, 8])}, "truncated"),
    "foreign bytes": ({"a": _entry(shape=[2], offsets=[0, 2])}, "foreign bytes"),
    "overlap": ({"a": _entry(shape=[3], offsets=[0, 3]), "b": _entry(shape=[3], offsets=[1, 4])}, "overlaps"),
    "gap": ({"a": _entry(shape=[1], offsets=[0, 1]), "b": _entry(shape=[1], offsets=[3, 4])}, "gap"),
    "unknown dtype": ({"a": _entry(dtype="Q3")}, "dtype 'Q3', which is unknown"),
    "dtype no text": ({"a": _entry(dtype=[1])}, "unknown"),  # type: ignore[arg-type]
    "negative side": ({"a": _entry(shape=[-4])}, "impossible shape"),
    "side no number": ({"a": _entry(shape=["4"])}, "impossible shape"),
    "boolean side": ({"a": _entry(shape=[True])}, "impossible shape"),
    "size differs": ({"a": _entry(shape=[5])}, "is damaged"),
    "astronomic": ({"a": _entry(shape=[1 << 40, 1 << 40])}, "is damaged"),
    "more sides than any tensor": ({"a": _entry(shape=[(1 << 62) - 1] * 85_000)}, "85000 sides, at most 16 are read"),
    "more sides, all of them one": ({"a": _entry(shape=[4] + [1] * 16)}, "17 sides, at most 16 are read"),
    "entry no table": ({"a": 3}, "malformed"),
    "metadata no texts": ({"__metadata__": {"a": 1}}, "metadata"),
    "twice": (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', "twice"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "said"), HEADERS.values(), ids=HEADERS)
def test_headers_that_lie(tmp_path: Path, header: object, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        open_source(_file(tmp_path / "x.safetensors", header, b"1234"))


@pytest.mark.parametrize("name", ["a\0b.safetensors", "\0", "a\0.pt", "a\0.safetensors.index.json"])
def test_a_path_with_nul(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="holds a NUL character") as error:
        open_source(tmp_path / name)
    assert str(error.value).isprintable()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened: No such file"):
        open_source(tmp_path / "none.safetensors")
    with pytest.raises(SourceError, match="is a folder"):
        open_source(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    size = 1 << 20
    path = _file(tmp_path / "x.safetensors", {"a": _entry(shape=[size], offsets=[0, size])}, bytes(size))
    with open_source(path) as source:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 2)
        with pytest.raises(SourceError, match="changed while it was read"):
            source.read("a")


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 60),
)
def test_mutated_files_raise_only_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({"a.weight": torch.zeros(4, 4), "b": torch.zeros(3)}, path, metadata={"k": "v"})
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data[: len(data) - cut])
    try:
        open_source(path).close()
    except SourceError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\ud800"])
def test_a_tensor_name_that_would_do_something_to_a_terminal(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="cannot be shown") as error:
        open_source(_file(tmp_path / "x.safetensors", {name: _entry()}, b"1234"))
    assert str(error.value).isprintable()
