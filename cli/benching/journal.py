"""What is done already: one line for each generation, so that a killed comparison goes on where it was.

The first line is the request, the second what the server is. Each further line is one generation, written and synced
when its pictures are on disk. A line that a kill cut off is dropped, and its generation made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ...converters.writing.journal import lock
from ..bounded import read_bounded
from ..servers.errors import RequestError

FORMAT = "nvfp4-studio-bench-journal"
VERSION = 1
NAME = "journal.jsonl"
PICTURES = "pictures"
BEGINNING = json.dumps({"format": FORMAT}).encode()[:-1]
"""Of the first line, by which one that a kill cut off is told from somebody else's file."""

Key = tuple[int, int]
"""Number of the model, number of the picture."""


class Journal:
    """The folder of a comparison; within the context no second run uses it.

    done: what is known of each generation. server: what the server was when the comparison began, None before that.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder = folder
        self.done: dict[Key, dict[str, Any]] = {}
        self.lost: dict[Key, int] = {}
        self.server: dict[str, Any] | None = None
        self._request = dict(request)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Journal:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.folder / NAME, "a+b")
        try:
            if not lock(self._file):
                raise RequestError(f"Another run is using {self.folder}: wait for it, or choose another --out.")
            self._open(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def begin(self, server: Mapping[str, Any]) -> None:
        """Note what the server is, or raise RequestError when the comparison was begun on another one."""
        if self.server is None:
            self.server = dict(server)
            self._append({"server": self.server})
            return
        for name, value in self.server.items():
            if server.get(name) != value:
                raise RequestError(
                    f"{self.folder} holds a comparison made with {name} {_short(value)}, and this server has "
                    f"{_short(server.get(name))}: continue on the same one, or choose another --out."
                )

    def record(self, entry: Mapping[str, Any]) -> None:
        """A generation is done, well or not; entry has its "model" and "picture"."""
        self.done[entry["model"], entry["picture"]] = dict(entry)
        self._append(entry)

    def lose(self, model: int, picture: int) -> int:
        """The server went away while it was made; how often that happened."""
        self.lost[model, picture] = self.lost.get((model, picture), 0) + 1
        self._append({"lost": [model, picture]})
        return self.lost[model, picture]

    def picture_path(self, model: int, picture: int, index: int, suffix: str) -> Path:
        """Where a picture lies."""
        extra = f"-{index + 1}" if index else ""
        return self.folder / PICTURES / f"model-{model + 1}" / f"{picture:04}{extra}{suffix}"

    def _open(self, file: BinaryIO) -> None:
        file.seek(0)
        raw = read_bounded(file)
        whole = (raw or b"")[: (raw or b"").rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.split(b"\n") if line]
        except (ValueError, RecursionError):
            lines = [None]
        if raw is not None and not lines and (raw.startswith(BEGINNING) or BEGINNING.startswith(raw)):
            file.truncate(0)
            self._append({"format": FORMAT, "version": VERSION, "request": self._request})
            return
        head = lines[0] if lines and isinstance(lines[0], dict) else {}
        known = head.get("request")
        if not isinstance(known, dict) or (head.get("format"), head.get("version")) != (FORMAT, VERSION):
            raise RequestError(
                f"{self.folder / NAME} is no journal of this version: delete {self.folder} to begin anew, or choose "
                "another --out."
            )
        differing = sorted(key for key in {*known, *self._request} if known.get(key) != self._request.get(key))
        if differing:
            raise RequestError(
                f"{self.folder} holds a comparison with other {', '.join(differing)}: repeat its command to continue it, "
                "choose another --out, or delete the folder."
            )
        file.truncate(len(whole))
        for line in lines[1:]:
            self._take(line)

    def _take(self, line: Any) -> None:
        try:
            if "server" in line:
                self.server = dict(line["server"])
            elif "lost" in line:
                model, picture = line["lost"]
                self.lost[int(model), int(picture)] = self.lost.get((int(model), int(picture)), 0) + 1
            else:
                self.done[int(line["model"]), int(line["picture"])] = line
        except (TypeError, ValueError, KeyError) as error:
            raise RequestError(f"{self.folder / NAME} is damaged: delete {self.folder} to begin anew.") from error

    def _append(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
