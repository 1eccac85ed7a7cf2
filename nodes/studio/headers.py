"""Opened checkpoints: the header is parsed once, however often the page asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...converters import Source, open_source
from ...converters.containers.tensors import Index
from .. import checkpoints
from .cache import FileCache
from .told import by_id

_indices: FileCache[Index] = FileCache(8)
"""A header of 2000 tensors takes about a megabyte."""


@contextlib.contextmanager
def opened(source: str) -> Iterator[Source]:
    """The checkpoint with this id, opened for reading.

    Raises:
        HostError: there is no such checkpoint.
        Refused: it cannot be read, or an error of the pack's own inside the block.
    """
    path = checkpoints.inner_source_path(source)

    def read() -> tuple[Index, Iterable[Path]]:
        with open_source(path) as found:
            return Index(found.files, found.metadata, found.tensors), (path, *found.files)

    with by_id({path: source}), Source(path, _indices.get(path, read)) as found:
        yield found
