"""Conversions that a kill or an error left unfinished, with what was asked for, so that the same can be asked again.

While a conversion runs, ``.NAME.safetensors.asked`` lies beside its file in the making: the inputs of its node as
JSON. It goes when the conversion ends; after a kill, and an error that left something to go on with, it stays with that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...calibration.errors import StudioError
from ...calibration.files import write_atomically
from ...converters.writing.leftovers import discard, leftover, leftovers
from .. import checkpoints, names
from ..guard import Refused
from .fields import name_in
from .told import by_id

MAX_BYTES = 65_536
Inputs = Mapping[str, "str | bool"]


def record(target: Path, inputs: Inputs) -> None:
    """Write down what was asked for."""
    write_atomically(_place(target), (json.dumps(dict(inputs), indent=1) + "\n").encode())


def forget(target: Path) -> None:
    """Remove what was written down, unless something is left with which the same would go on."""
    if leftover(target) is None:
        _place(target).unlink(missing_ok=True)


def recorded(target: Path) -> Inputs | None:
    """What was asked for, None where that is not known or would make another file."""
    path = _place(target)
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not all(isinstance(value, str | bool) for value in data.values()):
        return None
    return data if _leads_to(target, data) else None


def _leads_to(target: Path, inputs: Inputs) -> bool:
    """Whether a node with these inputs would write ``target``: what was asked for lies in a file, and files can lie."""
    try:
        name = names.converted_name(str(inputs["source"]), str(inputs["output_name"]))
        return target in checkpoints.output_candidates(name)
    except (KeyError, StudioError):
        return False


def interrupted(running: Collection[str]) -> list[dict[str, Any]]:
    """All in ComfyUI's output folders but those whose ids run on this server."""
    found = []
    for key in checkpoints.FOLDERS:
        folder = checkpoints.output_folder(key)
        for left in leftovers(folder):
            identity = f"{key}/{left.target.relative_to(folder).as_posix()}"
            if identity in running:
                continue
            inputs = recorded(left.target)
            found.append(
                {
                    "id": identity,
                    "target": identity,
                    "source": inputs.get("source") if inputs else None,
                    "done": left.done,
                    "total": left.total,
                    "changed_ns": left.changed_ns,
                    "options": inputs,
                }
            )
    return sorted(found, key=lambda entry: -entry["changed_ns"])


def discarded(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"id"}`` -> ``{"deleted"}``: removes the file in the making, its journal and what was asked for."""
    identity = name_in(body, "id")
    key, _, name = identity.partition("/")
    if key not in checkpoints.FOLDERS or not name.endswith(names.SUFFIX):
        raise Refused(404, f"There is no interrupted conversion {identity!r}: refresh the list.")
    target = names.file_below(checkpoints.output_folder(key), name, "id")
    with by_id({target: identity}):
        discard(target)
    forget(target)
    return {"deleted": identity}


def _place(target: Path) -> Path:
    return target.with_name(f".{target.name}.asked")
