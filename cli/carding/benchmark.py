"""The part of a comparison that is about this file: its reference and itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from .errors import CardError
from .file import describe_making

MADE = ("source_sha256", "recipe", "rounding", "rounding_planned", "input_scale", "calibration")


def of_this_file(result: Mapping[str, Any], name: str, made: Mapping[str, Any] | None) -> dict[str, Any]:
    """The comparison with its other models left out.

    The model is found by its file name; where both tell how they were made they must tell the same.
    """
    names = [model["name"] for model in result["models"]]
    index = next((number for number, listed in enumerate(names) if _file(listed) == name), None)
    if index is None:
        raise CardError(f"The comparison has no model {name}, only {', '.join(names)}: give the result that has it.")
    found = result["models"][index]["made_by"]
    if found and made:
        measured = describe_making(found)
        differing = [key for key in MADE if measured.get(key) != made.get(key)]
        if differing:
            raise CardError(
                f"The {name} of the comparison was made with other {', '.join(differing)}: run the comparison with this "
                "file."
            )
    reference = names.index(result["request"]["reference"])
    kept = list(dict.fromkeys((reference, index)))
    return {
        **result,
        "models": [result["models"][number] for number in kept],
        "orders": [[listed for listed in order if names.index(listed) in kept] for order in result["orders"]],
        "generations": [
            {**entry, "model": kept.index(entry["model"])} for entry in result["generations"] if entry["model"] in kept
        ],
        "notes": [note for note in result["notes"] if not _of_another(note, names, kept)],
    }


def _of_another(note: str, names: list[str], kept: list[int]) -> bool:
    return any(note.startswith(f"{name}: ") for number, name in enumerate(names) if number not in kept)


def _file(listed: str) -> str:
    """The file's name without the folders in which a server may list it."""
    return PurePosixPath(listed.replace("\\", "/")).name
