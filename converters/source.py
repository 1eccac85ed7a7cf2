"""Read a safetensors file by its header: every offset is checked before a byte of data is touched.

The parser is our own because the converter needs file offsets (to stream one tensor at a time) and
because a memory map of the source must not be open when the target is renamed on Windows. The
format is described at https://github.com/huggingface/safetensors#format: eight bytes of header
length (little endian), a JSON header, the data.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from .errors import SourceError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library; a larger header is damage or an attack."""

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
CODES: Mapping[torch.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a header. ``start`` is the absolute file offset of the first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


class Source:
    """A checkpoint opened for reading. Use as a context manager; only the header is kept in memory.

    Reading is safe from several threads at once.
    """

    def __init__(self, path: Path, file: BinaryIO, metadata: dict[str, str], tensors: dict[str, TensorInfo]):
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self.size = path.stat().st_size
        self._file = file
        self._lock = threading.Lock()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor on the CPU, with a buffer of its own."""
        info = self.tensors[name]
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=info.torch_dtype)
        return torch.frombuffer(self._read(info.start, info.nbytes), dtype=info.torch_dtype).reshape(info.shape)

    def read_rows(self, name: str, first: int, last: int) -> torch.Tensor:
        """Return rows ``first`` to ``last`` (exclusive) of a tensor with at least one dimension."""
        info = self.tensors[name]
        rows = last - first
        row_bytes = info.nbytes // info.shape[0]
        if rows * row_bytes == 0:
            return torch.empty((rows, *info.shape[1:]), dtype=info.torch_dtype)
        data = self._read(info.start + first * row_bytes, rows * row_bytes)
        return torch.frombuffer(data, dtype=info.torch_dtype).reshape(rows, *info.shape[1:])

    def chunks(self, name: str, size: int = 1 << 24) -> Iterator[bytearray]:
        """Yield the tensor's bytes in pieces of at most ``size`` bytes."""
        info = self.tensors[name]
        for offset in range(0, info.nbytes, size):
            yield self._read(info.start + offset, min(size, info.nbytes - offset))

    def _read(self, start: int, count: int) -> bytearray:
        data = bytearray(count)
        try:
            with self._lock:
                self._file.seek(start)
                got = self._file.readinto(data)  # type: ignore[attr-defined]
        except OSError as error:
            raise SourceError(
                f"{self.path} cannot be read at byte {start} ({error}); check the disk or copy it."
            ) from error
        if got != count:
            raise SourceError(
                f"{self.path} ended at byte {start + (got or 0)} while {start + count} were announced: "
                "it changed while it was read; start again when no other program writes to it."
            )
        return data


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a safetensors file and check its whole header.

    Raises:
        SourceError: not a file, not safetensors, truncated, header too large or malformed, unknown
            dtype, tensors that overlap or do not fill the file.
    """
    path = Path(path)
    if path.is_dir():
        raise SourceError(f"{path} is a folder; name one .safetensors file.")
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}.") from error
    try:
        metadata, tensors = _parse(path, file)
    except BaseException:
        file.close()
        raise
    return Source(path, file, metadata, tensors)


def _parse(path: Path, file: BinaryIO) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise SourceError(f"{path} has {size} bytes and is not a safetensors file; choose another source.")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES or file.read(1) != b"{":
        raise SourceError(f"{path} is not a safetensors file (it does not begin with a header); choose another source.")
    if 8 + length > size:
        raise SourceError(
            f"{path} announces a header of {length} bytes but has only {size}: it is truncated; download it again."
        )
    try:
        header = json.loads(b"{" + file.read(length - 1), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} has a damaged header ({error}); download it again.") from error
    metadata = _metadata(path, header.pop("__metadata__", {}))
    tensors = {name: _entry(path, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.nbytes)):
        if info.start != end:
            what = "overlaps the one before it" if info.start < end else "leaves a gap before it"
            raise SourceError(f"{path}: tensor {info.name} {what} (byte {info.start}, expected {end}); it is damaged.")
        end += info.nbytes
    if end != size:
        what = "truncated" if size < end else "followed by foreign bytes"
        raise SourceError(f"{path} has {size} bytes where its header describes {end}: it is {what}; download it again.")
    return metadata, tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise SourceError(f"{path} has header metadata that is not a table of texts; it is damaged.")
    return value


def _entry(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SourceError(f"{path}: the header entry of {name[:200]} is malformed; the file is damaged.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SourceError(f"{path}: tensor {name[:200]} has dtype {str(dtype)[:40]}, which is unknown to nvfp4-studio.")
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise SourceError(f"{path}: tensor {name[:200]} has an impossible shape or position; the file is damaged.")
    count = 1
    for side in shape:
        count *= side
    nbytes = offsets[1] - offsets[0]
    if count * DTYPES[dtype].itemsize != nbytes:
        raise SourceError(
            f"{path}: tensor {name[:200]} of shape {shape[:8]} and dtype {dtype} has {nbytes} bytes; the file is damaged."
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
