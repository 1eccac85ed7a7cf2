"""The calibration file's bytes, written so that nothing large is ever held whole.

A safetensors header comes first but is known last: equal tensors are stored once, and which are equal is
known only when they have been computed. So room for the longest possible header is left, the tensors are
streamed behind it, and the header is filled in at the end, padded with blanks as the format allows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, BinaryIO

import torch

_NAMES = {torch.int64: "I64", torch.int32: "I32", torch.float32: "F32", torch.bfloat16: "BF16"}
_LARGEST_OFFSET = 10**15
Header = dict[str, Any]


class TensorWriter:
    """Writes tensors one after the other into `file`.

    Tensors must come with their dtypes' sizes descending, so that each lies at a multiple of its size.
    """

    def __init__(self, file: BinaryIO, header_room: int) -> None:
        self._file = file
        self._room = header_room
        self._at = 0
        self._known: dict[bytes, str] = {}
        self.entries: Header = {}
        file.seek(8 + header_room)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write a tensor that has a place of its own."""
        begin = self._at
        self._append([tensor])
        self.entries[name] = entry(tensor.dtype, list(tensor.shape), begin, self._at)

    def write_once(self, name: str, dtype: torch.dtype, shape: list[int], pieces: Iterable[torch.Tensor]) -> str:
        """Write a tensor that comes in pieces; returns its name, or that of an earlier one of equal content."""
        begin = self._at
        digest = f"{dtype}{shape}".encode() + self._append(pieces)
        earlier = self._known.setdefault(digest, name)
        if earlier == name:
            self.entries[name] = entry(dtype, shape, begin, self._at)
        else:
            self._at = begin
            self._file.seek(8 + self._room + begin)
            self._file.truncate()
        return earlier

    def _append(self, pieces: Iterable[torch.Tensor]) -> bytes:
        digest = hashlib.sha256()
        for piece in pieces:
            data = piece.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            digest.update(data)
            self._file.write(data)
            self._at += len(data)
        return digest.digest()

    def finish(self, metadata: dict[str, str]) -> None:
        """Put the header into its place."""
        data = encoded(self.entries, metadata)
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little"))
        self._file.write(data.ljust(self._room))


def entry(dtype: torch.dtype, shape: list[int], begin: int = _LARGEST_OFFSET, end: int = _LARGEST_OFFSET) -> Header:
    """A tensor's line in the header; without a place, one that is at least as long."""
    return {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}


def encoded(entries: Header, metadata: dict[str, str]) -> bytes:
    """The header's JSON."""
    return json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":"), allow_nan=False).encode()


def room_for(entries: Header, metadata: dict[str, str]) -> int:
    """Bytes that a header with at most these entries needs, a multiple of eight."""
    return -(-len(encoded(entries, metadata)) // 8) * 8
