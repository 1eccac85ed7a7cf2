"""Layers that were measured already, kept beside the file in the making so that a measurement can go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from ..errors import SensitivityError
from ..writing.journal import close_in_spite, open_private
from ..writing.target import lock_soon
from .document import MAX_BYTES


class _OfModule(Protocol):
    @property
    def module(self) -> str: ...


_Measured = TypeVar("_Measured", bound=_OfModule)


class ProgressFile(Generic[_Measured]):
    """One JSON a line: first the measurement's fingerprint, then a layer each.

    A line that a kill cut off, and a file of another measurement, count as nothing. Use as a context manager.
    """

    def __init__(
        self,
        path: Path | None,
        fingerprint: str,
        to_json: Callable[[_Measured], Any],
        from_json: Callable[[Any], _Measured],
    ):
        """Nothing is opened yet.

        Args:
            path: None keeps nothing.
            fingerprint: tells this measurement from every other.
            to_json, from_json: of one layer; the latter raises SensitivityError for what is none.
        """
        self._path, self._fingerprint = path, fingerprint
        self._to_json, self._from_json = to_json, from_json
        self._file: BinaryIO | None = None
        self.finished: dict[str, _Measured] = {}

    def __enter__(self) -> ProgressFile[_Measured]:
        if self._path is not None:
            try:
                self._file = open_private(self._path)
                if not lock_soon(self._file):
                    self._file.close()
                    raise SensitivityError(
                        f"{self._path.name} is being measured already; wait, or choose another name."
                    )
                self.finished = self._read(self._file.read(MAX_BYTES))
                self._file.seek(0)
                self._file.truncate()
            except OSError as error:
                raise self._unwritable(error) from error
            self._append(self._fingerprint)
            for layer in self.finished.values():
                self.add(layer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            close_in_spite(self._file)

    def add(self, layer: _Measured) -> None:
        """Keep one layer more; raises SensitivityError when the disk refuses."""
        self._append(self._to_json(layer))

    def remove(self) -> None:
        """Close and delete the file: what is in it is not needed any more."""
        if self._file is not None and self._path is not None:
            close_in_spite(self._file)
            self._file = None
            with contextlib.suppress(PermissionError):  # Windows, while somebody looks whether the lock is held
                self._path.unlink(missing_ok=True)

    def _append(self, entry: object) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SensitivityError:
        return SensitivityError(
            f"{self._path} cannot be written: {error.strerror or error}; make room, or check the folder's permissions."
        )

    def _read(self, content: bytes) -> dict[str, _Measured]:
        lines = content.split(b"\n")[:-1]  # what follows the last newline was cut off
        try:
            if not lines or json.loads(lines[0]) != self._fingerprint:
                return {}
            layers = [self._from_json(json.loads(line)) for line in lines[1:]]
        except (ValueError, RecursionError, SensitivityError):
            return {}
        return {layer.module: layer for layer in layers}
