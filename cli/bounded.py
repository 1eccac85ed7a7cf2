"""Reading files that somebody else wrote, within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

MOST = 256 << 20
"""Bytes of a JSON file; as Python's objects they take some ten times as many."""

CHUNK = 1 << 20


def read_bounded(file: BinaryIO, most: int = MOST) -> bytes | None:
    """All bytes from here to the end, None when there are more than `most`; memory grows with what is there."""
    raw = bytearray()
    while chunk := file.read(CHUNK):
        raw += chunk
        if len(raw) > most:
            return None
    return bytes(raw)


def read_json(path: Path, most: int = MOST) -> Any:
    """The value in a JSON file. Raises OSError, and ValueError for what is no JSON, nested too deeply, or too large."""
    with path.open("rb") as file:
        raw = read_bounded(file, most)
    if raw is None:
        raise ValueError(f"more than {most} bytes")
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
