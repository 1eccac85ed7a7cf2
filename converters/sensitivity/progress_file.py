"""Layers that were measured already, kept beside the file in the making so that a measurement can go on."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import SensitivityError
from ..journal import lock, open_private
from .document import MAX_BYTES, Reader, layer_from_json
from .values import LayerSensitivity, layer_to_json


class ProgressFile:
    """One JSON a line: first the measurement's fingerprint, then a layer each.

    A line that a kill cut off, and a file of another measurement, count as nothing. Use as a context manager.
    """

    def __init__(self, path: Path | None, fingerprint: str):
        """``path``: None keeps nothing."""
        self._path, self._fingerprint = path, fingerprint
        self._file: BinaryIO | None = None
        self.finished: dict[str, LayerSensitivity] = {}

    def __enter__(self) -> ProgressFile:
        if self._path is not None:
            try:
                self._file = open_private(self._path)
                if not lock(self._file):
                    self._file.close()
                    raise SensitivityError(
                        f"{self._path.name} is being measured already; wait, or choose another name."
                    )
                self.finished = self._read(self._file.read(MAX_BYTES))
                self._file.seek(0)
                self._file.truncate()
            except OSError as error:
                raise SensitivityError(f"{self._path} cannot be written: {error.strerror or error}.") from error
            self._append(self._fingerprint)
            for layer in self.finished.values():
                self._append(layer_to_json(layer))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, layer: LayerSensitivity) -> None:
        self._append(layer_to_json(layer))

    def _append(self, entry: object) -> None:
        if self._file is not None:
            self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def _read(self, content: bytes) -> dict[str, LayerSensitivity]:
        lines = content.split(b"\n")[:-1]  # what follows the last newline was cut off
        try:
            if not lines or json.loads(lines[0]) != self._fingerprint:
                return {}
            layers = [layer_from_json(Reader(str(self._path)), json.loads(line)) for line in lines[1:]]
        except (ValueError, RecursionError, SensitivityError):
            return {}
        return {layer.module: layer for layer in layers}
