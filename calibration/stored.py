"""Large tensors of a calibration, read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from .errors import CalibrationError


class Readable(Protocol):
    """A tensor that lies somewhere; `read` gives all of it, or elements `first` .. `last` in flat order."""

    def read(self) -> torch.Tensor: ...

    def part(self, first: int, last: int) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor in memory."""

    tensor: torch.Tensor

    def read(self) -> torch.Tensor:
        return self.tensor

    def part(self, first: int, last: int) -> torch.Tensor:
        return self.tensor.flatten()[first:last]


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a calibration file. The file is open only while it is read, so it can be replaced.

    stamp: size and time of change in ns of the file when it was looked at; another one is an error, because
    the bytes at this place may then be anything.
    """

    path: Path
    stamp: tuple[int, int]
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        count = 1
        for side in self.shape:
            count *= side
        return self.part(0, count).reshape(self.shape)

    def part(self, first: int, last: int) -> torch.Tensor:
        size = self.dtype.itemsize
        data = bytearray((last - first) * size)
        if not data:
            return torch.zeros(0, dtype=self.dtype)
        try:
            if stamp(self.path) != self.stamp:
                raise CalibrationError(f"{self.path} has been replaced since it was loaded; load it again.")
            with open(self.path, "rb") as file:
                file.seek(self.start + first * size)
                got = file.readinto(data)
        except OSError as error:
            raise CalibrationError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if got != len(data):
            raise CalibrationError(f"{self.path} has been cut short since it was loaded; load it again.")
        return torch.frombuffer(data, dtype=self.dtype)


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change in ns. Raises OSError."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
