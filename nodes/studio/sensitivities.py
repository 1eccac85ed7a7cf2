"""Measured sensitivities: which there are, and the one that a plan looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...converters.sensitivity import Sensitivity, load
from ..library import SENSITIVITIES
from .cache import FileCache
from .told import by_id

_loaded: FileCache[Sensitivity] = FileCache(4)


def opened(name: str) -> Sensitivity:
    """The sensitivity of this name.

    Raises:
        HostError: there is none.
        Refused: it cannot be read.
    """
    path = SENSITIVITIES.exchangeable(name)

    def read() -> tuple[Sensitivity, Iterable[Path]]:
        return load(path), (path,)

    with by_id({path: name}):
        return _loaded.get(path, read)


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """``{"sensitivities": [{"name", "bytes", "modified_ns"}]}``."""
    entries = [
        {"name": name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for name, stat in SENSITIVITIES.stored()
    ]
    return {"sensitivities": entries}
