"""The target and the file in the making beside it: whether it may be written, and that nobody else does."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

from ...calibration.files import patiently
from ..errors import ConversionError, TargetExists
from .journal import Journal, lock, open_private

LOOKS, LOOK_SECONDS = 10, 0.02
"""How long a lock is waited for that is only being looked at."""
SPACE_RESERVE = 16 << 20
"""Free bytes that must remain after the file: reports and the file system's own needs."""

NO_SECOND_NAMES = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems without hard links answer (FAT, some network drives)."""


def temporary_names(target: Path) -> tuple[Path, Path]:
    """The file in the making and its journal, beside the target."""
    return target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.journal")


def search_name(target: Path) -> Path:
    """What a search before the conversion found already, beside the target until the conversion ends."""
    return target.with_name(f".{target.name}.search")


def check_target(target: Path, overwrite: bool) -> None:
    """Raises ConversionError when the target may not or cannot be made."""
    if not target.parent.is_dir():
        raise ConversionError(f"The folder {target.parent} does not exist; create it or choose another output.")
    if target.is_dir():
        raise ConversionError(f"{target} is a folder; choose another name.")
    if os.path.lexists(target) and not overwrite:
        raise TargetExists(f"{target} exists already; choose another name or allow overwriting.")


def open_locked(target: Path, journal: Journal) -> BinaryIO:
    """Open and lock the temporary file. Another process may rename or remove it in between: then try again.

    A file of this name that no journal belongs to is somebody else's, and stays as it is.
    """
    temporary, _ = temporary_names(target)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(temporary), os.lstat(target)):
            temporary.unlink()  # a run died between the two steps of `give_name`
    while True:
        file = open_private(temporary)
        ours = False
        try:
            if not lock_soon(file):
                raise ConversionError(f"Another conversion is writing {target}; wait for it or choose another name.")
            if os.fstat(file.fileno()).st_size and not journal.exists():
                raise ConversionError(
                    f"{temporary} is in the way and was not begun by nvfp4-studio; move it or choose another name."
                )
            with contextlib.suppress(FileNotFoundError):
                ours = os.path.samestat(os.fstat(file.fileno()), os.stat(temporary))
        finally:
            if not ours:
                file.close()
        if ours:
            return file


def give_name(target: Path, overwrite: bool) -> None:
    """Turn the finished file in the making into the target.

    Without ``overwrite`` a target that somebody made meanwhile stays as it is: a second name is given, which the
    system refuses where there is one, and the first taken away. A file system without second names cannot tell.

    Raises:
        ConversionError: there is a target now.
        OSError: as the system says.
    """
    temporary, _ = temporary_names(target)
    if overwrite:
        patiently(lambda: os.replace(temporary, target))
        return
    try:
        if os.name == "nt":
            patiently(lambda: os.rename(temporary, target))  # refuses there by itself
            return
        os.link(temporary, target)
    except FileExistsError:
        check_target(target, overwrite)
        raise
    except OSError as error:
        if error.errno not in NO_SECOND_NAMES:
            raise
        check_target(target, overwrite)
        os.replace(temporary, target)
    else:
        temporary.unlink(missing_ok=True)


def lock_soon(file: BinaryIO) -> bool:
    """Whether the lock was got; somebody who only looks whether it is held (``leftovers``) lets go in a moment."""
    for _ in range(LOOKS):
        if lock(file):
            return True
        time.sleep(LOOK_SECONDS)
    return lock(file)


def check_space(target: Path, size: int) -> None:
    """Raises ConversionError when ``size`` bytes do not fit, counting what a file in the making has already."""
    free = shutil.disk_usage(target.parent).free
    with contextlib.suppress(FileNotFoundError):
        stat = os.stat(temporary_names(target)[0])
        free += stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size
    if free < size + SPACE_RESERVE:
        raise ConversionError(
            f"{target.parent} has {free / 1e9:.2f} GB free but the output needs {size / 1e9:.2f} GB; "
            "make room or choose another folder."
        )


def explained(error: OSError, target: Path) -> ConversionError:
    """What the system said, as one sentence with the way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConversionError(
            f"The disk of {target.parent} is full, and the file was not kept. Make room and start again."
        )
    named = Path(error.filename) if isinstance(error.filename, str) else target
    return ConversionError(
        f"{named} cannot be written: {error.strerror or error}; check the folder's permissions, or choose another output."
    )
