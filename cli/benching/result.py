"""Everything about a comparison as one JSON, from which the page and all pictures are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ... import __version__
from ...calibration.errors import StudioError
from ..text import one_line
from .figures import drift, model_figures
from .journal import Journal
from .quality import add_scores
from .schedule import Schedule
from .shape import is_result

FORMAT = "nvfp4-studio-bench"
VERSION = 1
DRIFT_NOTED = 1.1


class BenchError(StudioError):
    """A file that is no result of a comparison, or of another version."""


def make_result(
    journal: Journal,
    schedule: Schedule,
    models: Sequence[str],
    reference: int,
    request: Mapping[str, Any],
    progress: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """From a complete journal."""
    order = {(segment.model, segment.block): segment.place for segment in schedule.segments()}
    entries = sorted(
        (dict(entry) for entry in journal.done.values()),
        key=lambda entry: (entry["block"], order[entry["model"], entry["block"] - 1], entry["picture"]),
    )
    add_scores(entries, reference, journal.folder, progress)
    of_model = [[entry for entry in entries if entry["model"] == model] for model in range(len(models))]
    server = dict(journal.server or {})
    made_by = server.pop("made_by", [None] * len(models))
    found: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "nvfp4_studio": __version__,
        "server": server,
        "request": {**request, "block": schedule.block_size, "reference": models[reference]},
        "orders": [[models[model] for model in order] for order in schedule.orders],
        "pictures": [vars(shot) for shot in schedule.shots],
        "models": [
            {
                "name": name,
                "made_by": made_by[model],
                **model_figures(of_model[model], of_model[reference]),
            }
            for model, name in enumerate(models)
        ],
        "drift": drift(entries),
        "generations": entries,
    }
    found["notes"] = _notes(found)
    return found


def check_result(found: object, path: object) -> dict[str, Any]:
    """The same, if it is one. Raises BenchError."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BenchError(f"{path} is no result of nvfp4-studio bench: give its bench.json.")
    if found.get("version") != VERSION:
        raise BenchError(
            f"{path} has version {one_line(repr(found.get('version')), 40)} of the results' format, this nvfp4-studio reads {VERSION}: "
            "run the comparison again, or install the other version."
        )
    if not is_result(found):
        raise BenchError(f"{path} was changed or cut off: run the comparison's command again, which writes it anew.")
    return found


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader has to know before believing a figure."""
    notes = [result["server"]["hardware"]["meaning"]] if "hardware" in result["server"] else []
    for model in result["models"]:
        name = model["name"]
        if model["failed"]:
            notes.append(f"{name}: {model['failed']} of {model['generations']} generations failed and have no time.")
        if model["reloaded"]:
            notes.append(
                f"{name}: the loader ran again for {model['reloaded']} warm generations, whose times hold the loading; does "
                "the server run with --cache-none?"
            )
        quality = model["quality"]
        if quality and quality["pairs"] and quality["equal"] == quality["pairs"]:
            notes.append(f"{name}: all pictures equal the reference's to the bit; is it the same model?")
        if quality and quality["reasons"]:
            notes.append(
                f"{name}: {model['made'] - quality['pairs']} generations have no quality: {quality['reasons'][0]}"
            )
        if model["films"]:
            notes.append(f"{name}: its films were timed; their quality is not measured.")
    if result["drift"] and result["drift"]["slowest_over_fastest"] > DRIFT_NOTED:
        share = 100 * (result["drift"]["slowest_over_fastest"] - 1)
        notes.append(
            f"The machine's speed varied by {share:.0f} % between blocks; speed-ups compare within blocks, times do not."
        )
    return notes
