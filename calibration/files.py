"""Writing a file so that it is absent, old or right, and never half written."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PAUSES = tuple(0.01 * 2**number for number in range(8)) if os.name == "nt" else ()
"""Seconds between two tries."""
ABANDONED_SECONDS = 3600
"""A file that is being written changes every few seconds, however slow the disk is."""
_RANDOM_BYTES = 6


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well.

    Temporary file in the same folder, fsync, rename, fsync of the folder. A crash or an error at any point
    leaves the old file, and an error or an interrupt no temporary one; that of a crash is removed by a later
    call for the same file. Missing folders are made. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _remove_abandoned(path, os.fstat(file.fileno()).st_mtime)
            yield file
            file.flush()
            os.fsync(file.fileno())
        patiently(lambda: os.replace(temporary, path))
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _remove_abandoned(path: Path, now: float) -> None:
    """Remove what crashes left of `path`; `now` by the clock of the folder's machine, in seconds."""
    with contextlib.suppress(OSError):  # tidying up is no reason to lose what is to be saved
        for other in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * (2 * _RANDOM_BYTES)}.tmp"):
            if now - other.lstat().st_mtime > ABANDONED_SECONDS:
                other.unlink()


def patiently(action: Callable[[], None]) -> None:
    """Do what changes a name, and on Windows try again for two and a half seconds where that is refused.

    Nothing there changes the name of a file that somebody has open, and a virus scanner, an indexer or another
    thread of ours looks at a file just when it is new. Raises OSError.
    """
    for pause in PAUSES:
        try:
            return action()
        except PermissionError:
            time.sleep(pause)
    return action()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by a file of `data`. Raises OSError."""
    with replacing(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can (not on Windows, nor in some network and FUSE folders)."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise
