"""Which stored calibrations are of a source: a page that asks for a plan without one can name them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from ...calibration import load
from ...calibration.errors import StudioError
from ...converters import Options, Source
from ...converters.planning.activations import check_calibration
from ...converters.planning.context import Context
from ...converters.planning.decide import context_of
from ..library import CALIBRATIONS
from .cache import FileCache

NEWEST = 16
"""So many calibrations are compared: each is read once for every source, which takes a tenth of a second."""
_fits: FileCache[bool] = FileCache(1024)


def fitting(source: Source) -> list[str]:
    """Names of the newest calibrations that a plan of this source would take, the newest first.

    One without samples of the calibrated weights is left out: it might be of any checkpoint of the same model.
    """
    newest = sorted(CALIBRATIONS.stored(), key=lambda entry: -entry[1].st_mtime_ns)[:NEWEST]
    context = cache(lambda: context_of(source, Options(), None))  # once for all that were not compared before
    return [name for name, _ in newest if _is_of(source, context, CALIBRATIONS.path(name))]


def _is_of(source: Source, context: Callable[[], Context], path: Path) -> bool:
    def read() -> tuple[bool, Iterable[Path]]:
        try:
            calibration = load(path)
            check_calibration(replace(context(), calibration=calibration))
        except StudioError:  # of another model, or not readable, which choosing it tells
            found = False
        else:
            found = any(layer.weight_samples.numel() for layer in calibration.layers.values())
        return found, (path, source.path, *source.files)

    return _fits.get((source.path, path), read)
