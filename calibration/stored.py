"""Large tensors of a calibration, read when they are asked for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from io import FileIO
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


class StoredFile:
    """A file that is read here and there for as long as anybody holds this object. It cannot be pickled.

    Where the system allows it, the file stays open, so that it can be read to the end when another one has taken its
    name, as happens with each image that is added to a calibration. Windows replaces no open file: there it is open
    only while it is read, and another file of its name is an error, because its bytes may be anything.

    One descriptor serves all tensors of a file, all threads, and forked processes too: reads share no position.
    """

    STAYS_OPEN = os.name == "posix"

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        file = FileIO(path)
        self._was = os.fstat(file.fileno())
        self._kept = file if self.STAYS_OPEN else None
        if self._kept is None:
            file.close()

    @property
    def size(self) -> int:
        """Bytes that it had when it was opened."""
        return self._was.st_size

    def has_its_name(self) -> bool:
        """Whether the name still leads to this file, as it was; raises OSError."""
        return self._is_like(os.stat(self.path))

    def read(self, start: int, count: int) -> bytearray:
        """`count` bytes from byte `start` on.

        Raises CalibrationError when somebody changed the file since it was opened.
        """
        try:
            if self._kept is not None:
                data = _read(self._kept, start, count)
                now = os.fstat(self._kept.fileno())
            else:
                with open(self.path, "rb") as file:
                    file.seek(start)
                    data = bytearray(file.read(count))
                    now = os.fstat(file.fileno())
        except OSError as error:
            raise CalibrationError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if not self._is_like(now) or len(data) != count:
            raise CalibrationError(
                f"{self.path} has been changed since it was loaded, perhaps by another image; start again while nothing "
                "is generated with it, or use a copy."
            )
        return data

    def _is_like(self, found: os.stat_result) -> bool:
        # Not by the inode, which some network drives number anew for each look.
        return (found.st_size, found.st_mtime_ns) == (self._was.st_size, self._was.st_mtime_ns)

    def __del__(self) -> None:
        kept: FileIO | None = self.__dict__.get("_kept")
        if kept is not None:
            kept.close()


def _read(file: FileIO, start: int, count: int) -> bytearray:
    """At most `count` bytes from byte `start` on, fewer at the end of the file; no position is used or moved."""
    data = bytearray()
    while len(data) < count:
        piece = os.pread(file.fileno(), count - len(data), start + len(data))
        if not piece:
            break
        data += piece
    return data


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a calibration file, from byte `start` of it on."""

    file: StoredFile
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        return self.part(0, math.prod(self.shape)).reshape(self.shape)

    def part(self, first: int, last: int) -> torch.Tensor:
        size = self.dtype.itemsize
        if last <= first:
            return torch.zeros(0, dtype=self.dtype)
        return torch.frombuffer(self.file.read(self.start + first * size, (last - first) * size), dtype=self.dtype)
