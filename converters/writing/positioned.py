"""Reading and writing at given places of one open file, from several threads at once."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from typing import BinaryIO

READ_AT_ONCE = 1 << 20


class PositionedFile:
    """A file opened for reading and writing; the file object stays its owner and closes it.

    What was written is the system's at once: it can be synced, and read through another handle.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._lock = threading.Lock()

    def write(self, start: int, data: memoryview) -> None:
        """Write all of ``data`` (format B) from byte ``start`` on; raises OSError."""
        while data:
            written = self._write(start, data)
            start, data = start + written, data[written:]

    def sync(self) -> None:
        """Return when all that was written is on disk; raises OSError."""
        os.fsync(self._file.fileno())

    def let_go(self) -> None:
        """Have the system forget what is on disk.

        It would keep it in memory until others need that, and get fresh memory for all that follows: that can take
        longer than copying the bytes, and pushes out what other programs read.
        """
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # it is only advice
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def checksum(self, start: int, count: int) -> int:
        """CRC-32 of ``count`` bytes from byte ``start`` on, of fewer when the file ends before; raises OSError."""
        found = 0
        for offset in range(0, count, READ_AT_ONCE):
            found = zlib.crc32(self._read(start + offset, min(READ_AT_ONCE, count - offset)), found)
        return found

    def _write(self, start: int, data: memoryview) -> int:
        with self._lock:
            if hasattr(os, "pwrite"):
                return os.pwrite(self._file.fileno(), data, start)
            self._file.seek(start)
            written = self._file.write(data)
            self._file.flush()
            return written

    def _read(self, start: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, start)
        with self._lock:
            self._file.seek(start)
            return self._file.read(count)
