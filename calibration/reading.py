"""Looking at a calibration file as hostile input: every claim is checked before anything is made of it."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CalibrationError
from .stored import StoredFile, StoredTensor

MAX_FILE_BYTES = 1 << 36
MAX_EAGER_BYTES = 1 << 30
"""Of what is read into memory at once; the sums and rows that may be larger are read when asked for."""
MAX_LAYERS = 32768
MAX_NAME = 1024
MAX_COUNT = 1 << 53
"""Counts are exact as JSON numbers up to here; 640 of them cannot overflow an int64 sum."""
MAX_HEADER = 100_000_000
LOOKS = 5
"""At a file that others replace."""
_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16"}


class TensorFile:
    """The tensors of a safetensors file, each looked at only after its dtype and shape have been checked.

    Raises CalibrationError for what is no sound safetensors file, and OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._eager = 0
        for _ in range(LOOKS):
            self._file = StoredFile(path)
            if self._file.size > MAX_FILE_BYTES:
                raise broken(
                    path, f"it has {self._file.size} bytes, more than the {MAX_FILE_BYTES} of the largest calibration"
                )
            try:
                with safe_open(path, framework="pt") as file:  # checks the header in every respect
                    self.metadata: dict[str, str] = file.metadata() or {}
            except SafetensorError as error:
                raise broken(path, f"it is no safetensors file ({str(error)[:200]!r})") from error
            if self._file.has_its_name():  # else another one took its place between two looks
                break
        else:
            raise CalibrationError(f"{path} is being replaced again and again; load it when nothing writes to it.")
        length = int.from_bytes(self._file.read(0, 8), "little")
        if length > MAX_HEADER:
            raise broken(path, "its header is too long")
        self._header: dict[str, Any] = json.loads(self._file.read(8, length))
        self._start = 8 + length

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor that must be there."""
        if name not in self._header:
            raise broken(self.path, f"the tensor {name} is missing")
        shape: list[int] = self._header[name]["shape"]
        return shape

    def stored(self, name: str, dtype: torch.dtype, shape: list[int]) -> StoredTensor:
        """A tensor that is read later."""
        found = self.shape(name)
        if found != shape or self._header[name]["dtype"] != _NAMES[dtype]:
            kind = self._header[name]["dtype"]
            raise broken(self.path, f"{name} is {kind} {found}, expected {_NAMES[dtype]} {shape}")
        start = self._start + self._header[name]["data_offsets"][0]
        return StoredTensor(self._file, start, tuple(shape), dtype)

    def read(self, name: str, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
        """A tensor, now."""
        found = self.stored(name, dtype, shape)
        begin, end = self._header[name]["data_offsets"]
        self._eager += end - begin
        if self._eager > MAX_EAGER_BYTES:
            raise broken(self.path, f"it holds more than {MAX_EAGER_BYTES} bytes of statistics")
        return found.read()


def is_count(value: object) -> bool:
    """An integer of 0 .. 2**53."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def is_name(value: object) -> bool:
    """Printable, so that showing a name can do nothing to a terminal."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def broken(path: str | PathLike[str], why: str) -> CalibrationError:
    """The error of a file that cannot be used."""
    return CalibrationError(f"{path} is not a usable calibration: {why}.")
