"""Errors of the core as a page is told them: by id, because paths of the server are nobody's business."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...calibration.errors import StudioError
from ..errors import HostError
from ..guard import Refused


@contextlib.contextmanager
def by_id(ids: Mapping[Path, str]) -> Iterator[None]:
    """Refuse with 400 what goes wrong inside, each path of ``ids`` replaced by its id."""
    try:
        yield
    except HostError:
        raise
    except StudioError as error:
        raise Refused(400, told(str(error), ids)) from error


def told(sentence: str, ids: Mapping[Path, str]) -> str:
    """The sentence with ids in the place of paths, and no folder of theirs left in it."""
    for path, name in ids.items():
        sentence = sentence.replace(str(path), name)
    for path in ids:
        sentence = sentence.replace(str(path.parent), "its folder")
    return sentence
