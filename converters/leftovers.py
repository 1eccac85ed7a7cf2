"""What a conversion that was killed left behind: a file in the making and its journal, which nobody holds any more."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import ConversionError
from .journal import MAX_JOURNAL_BYTES, are_pieces, lock
from .target import search_name, temporary_names

_PREFIX, _SUFFIX = ".", ".safetensors.part"


@dataclass(frozen=True)
class Leftover:
    """``done`` of ``total`` bytes are on the disk as they were meant; ``changed_ns``: when the last of them came."""

    target: Path
    done: int
    total: int
    changed_ns: int


def leftovers(folder: Path) -> list[Leftover]:
    """All below a folder, links not followed; what another program is still writing is none."""
    targets = (
        Path(parent, name[len(_PREFIX) : -len(".part")])
        for parent, _, names in os.walk(folder)
        for name in sorted(names)
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    )
    return [found for target in targets if (found := leftover(target)) is not None]


def leftover(target: Path) -> Leftover | None:
    """What is left of a conversion to ``target``; None when there is nothing, or while somebody is writing it."""
    temporary, journal = temporary_names(target)
    try:
        with _unheld(temporary) as file:  # as shortly as can be: whoever begins now wants the lock
            if file is None:
                return None
            total = os.fstat(file.fileno()).st_size
        return Leftover(target, min(total, _finished_bytes(journal)), total, journal.stat().st_mtime_ns)
    except OSError:  # no journal, or it was finished or removed meanwhile
        return None


def discard(target: Path) -> None:
    """Remove what is left of a conversion to ``target``.

    Raises:
        ConversionError: there is nothing, somebody is writing it, or it cannot be removed.
    """
    temporary, journal = temporary_names(target)
    if not journal.is_file() or journal.is_symlink():
        raise ConversionError(f"Nothing is left of a conversion to {target}; refresh the list.")
    try:
        with _unheld(temporary) as file:
            if file is None:
                raise ConversionError(f"A conversion is writing {target}; cancel it instead.")
            # The journal goes first: a run that begins now must not take half a file for one to go on with.
            journal.unlink(missing_ok=True)
            if os.name == "nt":
                file.close()
            temporary.unlink(missing_ok=True)
            search_name(target).unlink(missing_ok=True)
    except OSError as error:
        raise ConversionError(
            f"{target} has leftovers that cannot be removed ({error.strerror or error}); remove them by hand."
        ) from error


@contextlib.contextmanager
def _unheld(temporary: Path) -> Iterator[BinaryIO | None]:
    """The file in the making, locked while the block runs; None when another program holds it."""
    if temporary.is_symlink():
        raise OSError("its temporary name is a link")
    with temporary.open("r+b") as file:
        yield file if lock(file) else None


def _finished_bytes(journal: Path) -> int:
    """The sum of the pieces that a journal names, as far as it can be read."""
    if journal.is_symlink() or not journal.is_file() or journal.stat().st_size > MAX_JOURNAL_BYTES:
        return 0
    finished: dict[str, int] = {}
    for line in journal.read_bytes().split(b"\n")[1:-1]:  # the first is the fingerprint, the last was cut off
        try:
            entry = json.loads(line)
            if isinstance(entry, dict):
                done = {name: pieces for name, pieces in entry.items() if are_pieces(pieces)}
                finished.update({name: sum(piece[1] for piece in pieces) for name, pieces in done.items()})
        except (ValueError, RecursionError):  # remarks and damage count for nothing
            continue
    return sum(finished.values())
