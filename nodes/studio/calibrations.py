"""Step 2: calibrations and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import __version__
from .. import host
from ..library import CALIBRATIONS
from .fields import name_in


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """``{"version": the pack's, "calibrations": [{"name", "bytes", "modified_ns"}]}``."""
    entries = [
        {"name": name, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for name, stat in CALIBRATIONS.stored()
    ]
    return {"version": __version__, "calibrations": entries}


def deleted(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"name": "my-model"}`` -> ``{"deleted": "my-model"}``."""
    name = name_in(body, "name")
    CALIBRATIONS.exchangeable(name).unlink(missing_ok=True)
    host.refresh_lists()
    return {"deleted": name}
