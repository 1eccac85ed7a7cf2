"""What an earlier conversion left: its report beside the file, read with suspicion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ..converters import Options, open_source, report_stem
from .texts import conversion_text

MAX_REPORT_BYTES = 64 << 20
Stamp: TypeAlias = list[tuple[str, int, int]]
"""Path, size and time of change in ns of some files."""


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


def inputs_of(source: Path, statistics: Path | None) -> Stamp:
    """Of every file that a conversion reads.

    It stands in for contents: hashing 30 GB would take longer than converting them. Not the inode or the other time of
    change, which a container that starts or a restored backup may renew.
    """
    with open_source(source) as opened:
        files = [(path, size, changed) for path, size, _, changed, _ in opened.stamp()]
    if statistics is not None:
        stat = statistics.stat()
        files.append((str(statistics.resolve()), stat.st_size, stat.st_mtime_ns))
    return files


def stamp_of(inputs: Stamp, output: Path) -> str:
    """What a report keeps of the files behind it: equal as long as nobody touched what was read and what was written.

    A digest, because reports are published and a path tells who made them.
    """
    written = output.stat()
    return hashlib.sha256(json.dumps([inputs, written.st_size, written.st_mtime_ns]).encode()).hexdigest()


def is_current(output: Path, inputs: Stamp, options: Options) -> bool:
    """Whether a conversion of these files with these options wrote this file, as its report says."""
    report = report_of(output) or {}
    plan = report.get("plan")
    return (
        output.is_file()
        and isinstance(plan, dict)
        and plan.get("options") == options.to_json()
        and report.get("stamp") == stamp_of(inputs, output)
    )
