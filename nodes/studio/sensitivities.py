"""Measured sensitivities: which there are, their plots, and the one that a plan looks at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...calibration.errors import StudioError
from ...converters.plots.sensitivity import sensitivity_plot
from ...converters.sensitivity import discard_unfinished, load
from .. import host
from ..library import SENSITIVITIES
from .cache import FileCache
from .calibrations import png
from .fields import name_in
from .stored import Stored
from .told import by_id, told

opened = Stored(SENSITIVITIES, load)
_summaries: FileCache[dict[str, Any]] = FileCache(64)


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """``{"sensitivities": [...]}``: each with what it was measured on; ``problem`` says why one cannot be used."""
    entries = [
        {"name": name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, **_summary(name)}
        for name, stat in SENSITIVITIES.stored()
    ]
    return {"sensitivities": entries}


def _summary(name: str) -> dict[str, Any]:
    path = SENSITIVITIES.path(name)

    def read() -> tuple[dict[str, Any], Iterable[Path]]:
        found = load(path)
        facts = {key: getattr(found, key) for key in ("source", "family", "calibration", "kernels", "weighting")}
        return {**facts, "layers": len(found.layers), "problem": None}, (path,)

    try:
        return _summaries.get(path, read)
    except (StudioError, OSError) as error:
        return {"source": None, "problem": told(str(error), {path: name})}


def plot(query: Mapping[str, Any]) -> bytes:
    """``?name=``: errors and shares by block and type as PNG."""
    return png(sensitivity_plot(opened(name_in(query, "name"))))


def deleted(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"name"}`` -> ``{"deleted"}``, with what a cancelled measurement of this name kept; refused while one runs."""
    name = name_in(body, "name")
    path = SENSITIVITIES.exchangeable(name)
    with by_id({path: name}):
        discard_unfinished(path)
    path.unlink(missing_ok=True)
    opened.forget_old()
    host.refresh_lists()
    return {"deleted": name}
