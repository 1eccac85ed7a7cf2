"""Read a safetensors file by its header: every offset is checked before a byte of data is touched.

The parser is our own because the converter needs file offsets (to stream one tensor at a time) and
because a memory map of the source must not be open when the target is renamed on Windows. The
format is described at https://github.com/huggingface/safetensors#format: eight bytes of header
length (little endian), a JSON header, the data.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SourceError
from .tensors import DTYPES, Index, TensorInfo

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library; a larger header is damage or an attack."""

MAX_SIDES = 16
"""Weights have two to six. The time to multiply sides grows with the square of their number: minutes for a hostile header."""


def read_header(path: Path) -> Index:
    """Read and check the whole header of one file.

    Raises:
        SourceError: not a file, not safetensors, truncated, header too large or malformed, unknown
            dtype, tensors that overlap or do not fill the file.
    """
    try:
        with path.open("rb") as file:
            metadata, tensors = _parse(path, file)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error.strerror}.") from error
    return Index((path,), metadata, tensors)


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
        header = json.loads(b"{" + file.read(length - 1), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} has a damaged header ({error}); download it again.") from error
    metadata = _metadata(path, header.pop("__metadata__", {}))
    unprintable = next((name for name in header if not name.isprintable()), None)
    if unprintable is not None:
        raise SourceError(f"{path} names a tensor {unprintable[:80]!r}, which cannot be shown; the file is damaged.")
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


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON in which no name occurs twice. Raises ValueError."""
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
        raise SourceError(
            f"{path}: tensor {name[:200]} has dtype {str(dtype)[:40]!r}, which is unknown to nvfp4-studio."
        )
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise SourceError(f"{path}: tensor {name[:200]} has an impossible shape or position; the file is damaged.")
    if len(shape) > MAX_SIDES:
        raise SourceError(
            f"{path}: tensor {name[:200]} has {len(shape)} sides, at most {MAX_SIDES} are read; the file is damaged."
        )
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * DTYPES[dtype].itemsize != nbytes:
        raise SourceError(
            f"{path}: tensor {name[:200]} of shape {shape[:8]} and dtype {dtype} has {nbytes} bytes; the file is damaged."
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
