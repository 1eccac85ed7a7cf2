"""Opened checkpoints: the header is parsed once, however often the page asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...calibration.errors import StudioError
from ...converters import Source, open_source
from ...converters.tensors import Index
from .. import checkpoints
from ..guard import Refused
from .cache import FileCache

_indices: FileCache[Index] = FileCache(8)
"""A header of 2000 tensors takes about a megabyte."""


@contextlib.contextmanager
def opened(source: str) -> Iterator[Source]:
    """The checkpoint with this id, opened for reading.

    What is wrong with it, inside the block too, is told with its id: paths of the server are nobody's business.

    Raises:
        HostError: there is no such checkpoint.
        Refused: it cannot be read, or whatever the block finds.
    """
    path = checkpoints.inner_source_path(source)

    def read() -> tuple[Index, Iterable[Path]]:
        with open_source(path) as found:
            return Index(found.files, found.metadata, found.tensors), (path, *found.files)

    try:
        with Source(path, _indices.get(path, read)) as found:
            yield found
    except StudioError as error:
        raise Refused(400, str(error).replace(str(path), source).replace(str(path.parent), "its folder")) from error
