"""A library's files as values, by the names that pages ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from ..library import Library
from .cache import FileCache
from .told import by_id

Value = TypeVar("Value")


class Stored(Generic[Value]):
    """Opens a library's files with ``load``; the last few stay in memory for as long as they do not change."""

    def __init__(self, library: Library, load: Callable[[Path], Value], capacity: int = 4) -> None:
        self._library, self._load = library, load
        self._loaded: FileCache[Value] = FileCache(capacity)

    def __call__(self, name: str) -> Value:
        """The value of this name.

        Raises:
            HostError: there is none.
            Refused: it cannot be read.
        """
        path = self._library.exchangeable(name)

        def read() -> tuple[Value, Iterable[Path]]:
            return self._load(path), (path,)

        with by_id({path: name}):
            return self._loaded.get(path, read)

    def forget_old(self) -> None:
        """Let go of files that were deleted or replaced."""
        self._loaded.forget_old()
