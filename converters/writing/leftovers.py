"""What a conversion that was killed left behind: a file in the making and its journal, which nobody holds any more.

One that was killed while it searched has only what it found so far.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import ConversionError
from .journal import MAX_JOURNAL_BYTES, are_pieces, lock
from .target import search_name, temporary_names

_PREFIX, _ENDINGS = ".", (".part", ".search")


@dataclass(frozen=True)
class Leftover:
    """``done`` of ``total`` bytes are on the disk as they were meant; ``changed_ns``: when the last of them came.

    Both are 0 where nothing was written yet.
    """

    target: Path
    done: int
    total: int
    changed_ns: int


def leftovers(folder: Path) -> list[Leftover]:
    """All below a folder, links not followed; what another program is still writing is none."""
    targets = dict.fromkeys(
        Path(parent, name[len(_PREFIX) : -len(ending)])
        for parent, _, names in os.walk(folder)
        for name in sorted(names)
        for ending in _ENDINGS
        if name.startswith(_PREFIX) and name.endswith(f".safetensors{ending}")
    )
    return [found for target in targets if (found := leftover(target)) is not None]


def leftover(target: Path) -> Leftover | None:
    """What is left of a conversion to ``target``; None when there is nothing, or while somebody is writing it."""
    temporary, journal = temporary_names(target)
    try:
        searched, begun = _unheld_stat(search_name(target)), _unheld_stat(temporary)
        if begun is not None:
            return Leftover(
                target, min(begun.st_size, _finished_bytes(journal)), begun.st_size, journal.stat().st_mtime_ns
            )
        return Leftover(target, 0, 0, searched.st_mtime_ns) if searched is not None else None
    except OSError:  # somebody holds it, there is no journal, or it was finished or removed meanwhile
        return None


def discard(target: Path) -> None:
    """Remove what is left of a conversion to ``target``.

    Raises:
        ConversionError: there is nothing, somebody is writing it, or it cannot be removed.
    """
    temporary, journal = temporary_names(target)
    left = [temporary] * _is_file(journal) + [search_name(target)] * _is_file(search_name(target))
    if not left:
        raise ConversionError(f"Nothing is left of a conversion to {target}; refresh the list.")
    try:
        with contextlib.ExitStack() as held:
            files = [held.enter_context(_unheld(path)) for path in left]
            # The journal goes first: a run that begins now must not take half a file for one to go on with.
            journal.unlink(missing_ok=True)
            for path, file in zip(left, files, strict=True):
                if os.name == "nt":
                    file.close()
                path.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise ConversionError(f"A conversion is writing {target}; cancel it instead.") from error
    except OSError as error:
        raise ConversionError(
            f"{target} has leftovers that cannot be removed ({error.strerror or error}); remove them by hand."
        ) from error


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@contextlib.contextmanager
def _unheld(path: Path) -> Iterator[BinaryIO]:
    """A file that a conversion locks, locked while the block runs; raises BlockingIOError when another program holds it."""
    if path.is_symlink():
        raise OSError("its temporary name is a link")
    with path.open("r+b") as file:
        if not lock(file):
            raise BlockingIOError(f"{path} is locked")
        yield file


def _unheld_stat(path: Path) -> os.stat_result | None:
    """What the system says of such a file, None where there is none; the lock is held as shortly as can be, because
    whoever begins now wants it."""
    try:
        with _unheld(path) as file:
            return os.fstat(file.fileno())
    except FileNotFoundError:
        return None


def _finished_bytes(journal: Path) -> int:
    """The sum of the pieces that a journal names, as far as it can be read."""
    if not _is_file(journal) or journal.stat().st_size > MAX_JOURNAL_BYTES:
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
