"""Names that come from a widget: which ones may become a file, and where that file then lies.

A widget's string is untrusted even when it was chosen from a list, because a prompt can be posted without
the list. Nothing here touches ComfyUI or, apart from resolving links, the disk.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..calibration.errors import StudioError

SUFFIX = ".safetensors"
MAX_PART = 200
"""Bytes of one part of a name: file systems allow 255, and a suffix and a temporary name come on top."""
MAX_NAME = 1000
"""Bytes of a whole name: systems take paths of 4096 bytes, some of 1024."""

# Windows opens these as devices in every folder and with every suffix.
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\u2028\u2029\u202a-\u202e\u2066-\u2069]')
"""Line ends and what turns the direction of writing as well: a question before a deletion must name the file that goes."""


class InvalidName(StudioError):
    """A name from a widget cannot be used as the name of a file."""


def relative_parts(name: str, what: str) -> tuple[str, ...]:
    """Split a name like ``wan/high-noise`` into its parts; ``what`` names the thing in the error.

    Refused are: an empty name, an absolute path, a drive, a UNC or device path, ``.`` and ``..``, control
    characters and the characters that Windows forbids (a colon would also open an alternate data stream),
    parts that end in a dot or a space (Windows drops those, so the checked name would not be the opened one).
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidName(f"The {what} is empty: type a name such as my-model.")
    text = name.strip().replace("\\", "/")
    if text.startswith("/"):
        raise InvalidName(f"The {what} {name!r} is an absolute path: use a plain name such as my-model.")
    found = _FORBIDDEN.search(text)
    if found:
        raise InvalidName(f"The {what} {name!r} contains {found.group()!r}: use letters, digits, dots and dashes.")
    if _length(text, what) > MAX_NAME:
        raise InvalidName(f"The {what} has {_length(text, what)} bytes, more than {MAX_NAME}: shorten it.")
    parts = tuple(text.split("/"))
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidName(f"The {what} {name!r} leaves its folder: use a plain name such as my-model.")
        if part != part.strip() or part.endswith("."):
            raise InvalidName(f"The {what} {name!r} has a part that begins or ends in a space or ends in a dot.")
        if part.split(".")[0].rstrip().lower() in _DEVICES:
            raise InvalidName(f"The {what} {name!r} is the name of a device on Windows: use another name.")
        if _length(part, what) > MAX_PART:
            raise InvalidName(
                f"The {what} has a part of {_length(part, what)} bytes, more than {MAX_PART}: shorten it."
            )
    return parts


def converted_name(source: str, output_name: str) -> str:
    """What a converted file is called: as the user says, else as its source with -nvfp4."""
    if output_name.strip():
        return output_name.strip()
    return relative_parts(source, "source")[-1].rpartition(".")[0] + "-nvfp4"


def _length(part: str, what: str) -> int:
    """Bytes of a part of a name on the disk.

    Raises:
        InvalidName: it holds half a surrogate pair, which no file system encodes.
    """
    try:
        return len(part.encode())
    except UnicodeEncodeError as error:
        raise InvalidName(f"The {what} {part!r} holds half a character: type it again.") from error


def file_below(folder: str | Path, name: str, what: str, suffix: str = SUFFIX) -> Path:
    """The path of ``<folder>/<name><suffix>`` after checking that it lies in the folder.

    The parent is resolved, so a link inside the folder that points elsewhere is refused as well; the folder
    itself may be a link.
    """
    parts = relative_parts(name, what)
    last = parts[-1]
    if last.lower().endswith(suffix):
        last = last[: -len(suffix)]
        relative_parts(last, what)
    root = Path(folder)
    path = root.joinpath(*parts[:-1], last + suffix)
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise InvalidName(f"The {what} {name!r} leads out of its folder: use a plain name such as my-model.")
    return path
