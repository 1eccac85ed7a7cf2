"""Plans that are converted as recipes of their own: the page saves one, its conversion reads it, and then it goes.

They lie in a folder that no list shows. A conversion reads its recipe when its turn comes, or again after a kill.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from .. import host, recipes
from ..library import RECIPES
from .interrupted import interrupted

FOLDER = ".studio"
"""Below the folders of the user's recipes; the page names it."""
FRESH_SECONDS = 60.0
"""A plan that was saved so recently may be one whose conversion is just being queued."""


@contextlib.contextmanager
def converting(prompt_id: str, node: str, recipe: str) -> Iterator[None]:
    """While the block converts with this recipe it stays; then it goes, with all others that nothing waits for."""
    began = time.time()
    try:
        yield
    finally:
        kept = _needed(prompt_id, node)
        for path in _stored():
            name = _plain(recipes.MINE + RECIPES.name_of(path))
            newest = began if name == _plain(recipe) else began - FRESH_SECONDS
            if name not in kept:
                _remove(path, newest)


def _needed(prompt_id: str, node: str) -> set[str]:
    """The recipes of all conversions that wait, run or were interrupted, but for one node's of one prompt."""
    asked = [
        content.get("inputs", {})
        for _, other, prompt, *_ in host.queued_prompts()
        for name, content in prompt.items()
        if (other, name) != (prompt_id, node)
    ]
    asked += [entry["options"] for entry in interrupted(()) if entry["options"]]
    return {_plain(recipe) for inputs in asked if isinstance(recipe := inputs.get("recipe"), str)}


def _stored() -> list[Path]:
    folders = [Path(folder) / FOLDER for folder in folder_paths.get_folder_paths(RECIPES.key)]
    return [path for folder in folders for path in folder.glob(f"*{RECIPES.suffix}") if RECIPES.inside(path)]


def _plain(recipe: str) -> str:
    """An id with the same separator on every system."""
    return recipe.replace("\\", "/")


def _remove(path: Path, newest: float) -> None:
    """Remove a file that nobody has written since ``newest``, in seconds since the epoch."""
    try:
        if path.stat().st_mtime < newest:
            path.unlink()
    except OSError as error:
        host.log.warning("The plan of a conversion that is over could not be removed: %s", error)
