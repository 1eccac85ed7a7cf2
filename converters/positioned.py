"""Reading and writing at given places of one open file, from several threads at once."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

COMPARED_AT_ONCE = 1 << 20


class PositionedFile:
    """A file opened for reading and writing, unbuffered; the file object stays its owner and closes it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._lock = threading.Lock()

    def write(self, start: int, data: memoryview) -> None:
        """Write all of ``data`` (format B) from byte ``start`` on; raises OSError."""
        while data:
            written = self._write(start, data)
            start, data = start + written, data[written:]

    def holds(self, start: int, data: memoryview) -> bool:
        """Whether the file holds exactly ``data`` from byte ``start`` on; raises OSError."""
        for offset in range(0, len(data), COMPARED_AT_ONCE):
            part = data[offset : offset + COMPARED_AT_ONCE]
            # A bytearray compares with a view at the speed of memory, bytes do it one by one.
            found = bytearray(len(part))
            if self._read(start + offset, found) != len(part) or found != part:
                return False
        return True

    def _write(self, start: int, data: memoryview) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._file.fileno(), data, start)
        with self._lock:
            self._file.seek(start)
            return self._file.write(data)

    def _read(self, start: int, into: bytearray) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [into], start)
        with self._lock:
            self._file.seek(start)
            return self._file.readinto(into)  # type: ignore[attr-defined, no-any-return]
