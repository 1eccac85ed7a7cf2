"""What lets a conversion that was killed go on: a journal beside the temporary file, and a lock on it.

The journal's first line is the fingerprint of the conversion; each later line names tensors that are
on disk, not only in the system's memory, when the line is written, with the checksums of their pieces, or keeps
remarks about layers for the report. A conversion whose fingerprint differs starts anew. The lock is the operating system's and ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

Pieces = list[list[int]]
"""Of one tensor: first byte, number of bytes and CRC-32 of each piece that was written."""
Remarks = dict[str, list[str]]
"""Texts about layers, by their names; there is at least one for each."""
MAX_JOURNAL_BYTES = 256 << 20
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What some NFS, SMB and FUSE folders answer."""


class Journal:
    """Names of finished tensors of one conversion. ``resume`` fills in ``remarks``."""

    def __init__(self, path: Path, fingerprint: str):
        self._path = path
        self._fingerprint = fingerprint
        self._file: BinaryIO | None = None
        self.remarks: Remarks = {}

    def exists(self) -> bool:
        return self._path.exists()

    def resume(self) -> dict[str, Pieces]:
        """Return what an earlier run with the same fingerprint finished; empty when there was none."""
        try:
            if self._path.stat().st_size > MAX_JOURNAL_BYTES:
                return {}
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        finished: dict[str, Pieces] = {}
        for number, line in enumerate(lines[:-1]):  # what follows the last newline was cut off by the kill
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                return {}
            if number == 0 and entry != self._fingerprint:
                return {}
            if number > 0 and isinstance(entry, dict):
                finished.update({name: pieces for name, pieces in entry.items() if are_pieces(pieces)})
                self.remarks.update({name: texts for name, texts in entry.items() if _are_texts(texts)})
        return finished

    def start(self, done: Mapping[str, Pieces]) -> None:
        """Write the journal anew with what is already done and remarked, and keep it open."""
        self._file = open_private(self._path)
        self._file.truncate(0)
        self._append(self._fingerprint)
        if self.remarks:
            self._append(self.remarks)
        self._append(done)

    def add(self, finished: Mapping[str, Pieces], remarks: Mapping[str, list[str]]) -> None:
        """Record tensors that are on disk, after remarks about their layers."""
        if remarks:
            self._append(remarks)
        self._append(finished)

    def close(self) -> None:
        """Leave the journal to a run that goes on."""
        if self._file is not None:
            close_in_spite(self._file)
            self._file = None

    def remove(self) -> None:
        """Close and delete the journal."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _append(self, entry: str | Mapping[str, Pieces] | Mapping[str, list[str]]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) for text in value)


def are_pieces(value: object) -> bool:
    """Whether this is what a journal says of a tensor."""
    return isinstance(value, list) and all(
        isinstance(piece, list) and len(piece) == 3 and all(type(number) is int and number >= 0 for number in piece)
        for piece in value
    )


def open_private(path: Path) -> BinaryIO:
    """Open or make a file that belongs to nobody else, for reading and writing, without truncating it.

    Raises:
        OSError: the name is a link, a folder, a device, or one of several names of a file. Writing
            through it could destroy something that is not ours.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    if path.is_symlink():  # where the system knows no O_NOFOLLOW
        raise OSError(errno.ELOOP, "its temporary name is a link; remove it", str(path))
    file = os.fdopen(os.open(path, flags, 0o644), "r+b")
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        file.close()
        raise OSError(errno.EEXIST, "its temporary name belongs to another file; remove it", str(path))
    return file


def close_in_spite(file: BinaryIO) -> None:
    """Close a file that nobody needs any more, even where a full disk refuses what it still holds back."""
    with contextlib.suppress(OSError):
        file.close()


def lock(file: BinaryIO) -> bool:
    """Try to take the exclusive lock on an open file; False when another process has it.

    Some network folders know no locks; there nothing guards against two conversions to one target. On
    Windows a locked range cannot be written, so a byte far beyond any file's end is locked.
    """
    if sys.platform == "win32":
        import msvcrt

        position = file.tell()
        file.seek(1 << 60)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(position)
        return True
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
