"""What an earlier conversion left: its report beside the file, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..converters import Options, report_stem
from .texts import conversion_text

MAX_REPORT_BYTES = 64 << 20


def report_of(output: Path) -> Mapping[str, Any] | None:
    """The report beside a converted file as data, None when there is none, it is not one, or it is a link."""
    stem = report_stem(output)
    path = stem.with_name(stem.name + ".json")
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_REPORT_BYTES:
            return None
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def text_of(output: Path) -> str | None:
    """What the node showed after the conversion that made this file, None when that is not known."""
    data = report_of(output)
    if data is None:
        return None
    try:
        return conversion_text(data["summary"], output.name, data["plan"]["warnings"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):  # not as this pack writes them
        return None


def is_current(output: Path, source: Path, statistics: Path | None, calibration: str | None, options: Options) -> bool:
    """Whether this file came from this source, these statistics and these options, and is newer than both.

    Times of change stand in for contents: hashing 30 GB would take longer than converting them.
    """
    plan = (report_of(output) or {}).get("plan")
    if not isinstance(plan, dict) or not output.is_file():
        return False
    made = output.stat().st_mtime_ns
    inputs = [source] if statistics is None else [source, statistics]
    return (
        plan.get("options") == options.to_json()
        and plan.get("source") == source.name
        and plan.get("calibration") == calibration
        and all(path.stat().st_mtime_ns <= made for path in inputs)
    )
