"""Reading what others wrote: JSON objects, checksums with progress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..bounded import read_json
from .errors import CardError

CHUNK = 1 << 24
Progress = Callable[[int, int, str], None]


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CardError."""
    try:
        found = read_json(path)
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise CardError(f"{path} is no JSON: give {what}.") from error
    if not isinstance(found, dict):
        raise CardError(f"{path} is no JSON object: give {what}.")
    return found


def sha256_of(path: Path, progress: Progress, cancelled: Callable[[], bool]) -> str | None:
    """Of a file's bytes, in hexadecimal; None when cancelled."""
    total, done = path.stat().st_size, 0
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            if cancelled():
                return None
            digest.update(chunk)
            done += len(chunk)
            progress(done, total, f"checksum of {path.name}")
    return digest.hexdigest()
