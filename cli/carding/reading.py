"""Reading what others wrote: JSON files within bounds, checksums with progress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import CardError

MAX_BYTES = 1 << 30
CHUNK = 1 << 24
Progress = Callable[[int, int, str], None]


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CardError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        found = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
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
