"""Prompts: the built-in set by groups, or a plain file of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .errors import RequestError

BUILTIN = "builtin"
GROUPS = ("portrait", "text", "scenery", "product", "illustration", "animals", "architecture", "food")
OWN_GROUP = "own"

MAX_FILE_BYTES = 4 << 20
MAX_LINE = 4000
"""Characters; the longest text encoders in use read 512 tokens, some 2500 characters."""


@dataclass(frozen=True)
class Prompt:
    """A text and the group that it belongs to."""

    text: str
    group: str


def read_prompts(source: str) -> list[Prompt]:
    """`builtin`, `builtin:portrait,text`, or a file: one prompt a line, empty lines and # comments left out."""
    if source == BUILTIN or source.startswith(f"{BUILTIN}:"):
        wanted = [name.strip() for name in source[len(BUILTIN) + 1 :].split(",")] if ":" in source else list(GROUPS)
        unknown = next((name for name in wanted if name not in GROUPS), None)
        if unknown is not None:
            raise RequestError(f"There is no built-in prompt group {unknown!r}: choose from {', '.join(GROUPS)}.")
        folder = resources.files(f"{__package__.rpartition('.')[0]}.prompts")
        return [
            Prompt(text, name)
            for name in dict.fromkeys(wanted)
            for text in _lines(folder.joinpath(f"{name}.txt").read_text("utf-8"), name)
        ]
    return [Prompt(text, OWN_GROUP) for text in _lines(_read(Path(source)), source)]


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise RequestError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} of a file of prompts.")
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise RequestError(f"There is no file of prompts {path}: give a file, or {BUILTIN}.") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is no UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise RequestError(f"The prompts {path} cannot be read: {error.strerror or error}.") from error


def _lines(text: str, source: str) -> list[str]:
    found: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        if len(prompt) > MAX_LINE:
            raise RequestError(f"Line {number} of {source} has {len(prompt)} characters, more than {MAX_LINE}.")
        if not prompt.replace("\t", " ").isprintable():
            raise RequestError(f"Line {number} of {source} holds a control character: prompts are plain text.")
        found[prompt] = None
    if not found:
        raise RequestError(f"{source} holds no prompt: write one on each line.")
    return list(found)
