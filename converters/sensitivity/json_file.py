"""JSON files of this package: written whole or not at all, read within bounds."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from ...calibration.files import write_atomically
from ..errors import SensitivityError


def write_json(content: Any, path: str | PathLike[str]) -> None:
    """Write a file, replacing an older one only when the new one is complete on disk.

    Raises:
        SensitivityError: it cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    try:
        write_atomically(Path(path), text.encode())
    except OSError as error:
        raise SensitivityError(f"{path} cannot be written: {error.strerror or error}.") from error


def read_json(path: str | PathLike[str], kind: str, most: int) -> Any:
    """The value in a file of at most ``most`` bytes; ``kind`` says in errors what it should be.

    Raises:
        SensitivityError: there is no file, it is longer, or it is not JSON.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise SensitivityError(f"The {kind} {path} cannot be read: {error.strerror or error}.") from error
    if len(content) > most:
        raise SensitivityError(f"{path} is longer than the {most} bytes of the largest {kind}.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SensitivityError(f"The {kind} {path} is not JSON ({str(error)[:80]}).") from error
