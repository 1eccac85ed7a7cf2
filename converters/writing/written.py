"""What of a file in the making was written: the pieces of each tensor, and whether the file still holds them."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping
from pathlib import Path

from ..containers.layout import TensorSpec
from ..errors import ConversionError, VerificationError
from .journal import Pieces
from .positioned import PositionedFile


class Written:
    """The pieces of every declared tensor, with the checksums by which they are known again.

    ``done`` names what an earlier run finished.
    """

    def __init__(self, data: PositionedFile, places: Mapping[str, tuple[int, TensorSpec]], folder: Path):
        """Nothing is written yet.

        Args:
            data: the file, open for reading and writing.
            places: first byte and declaration of each tensor.
            folder: where the file lies, for errors.
        """
        self._data, self._places, self._folder = data, places, folder
        self._left = {name: spec.nbytes for name, (_, spec) in places.items()}
        self._pieces: dict[str, Pieces] = {name: [] for name in places}
        self._lock = threading.Lock()
        self.done: frozenset[str] = frozenset()

    def resume(self, finished: Mapping[str, Pieces]) -> dict[str, Pieces]:
        """Take over what the file still holds of what an earlier run finished, and return it; raises OSError."""
        for name in finished.keys() & self._places.keys():
            if self._is_whole(name, finished[name]) and self._differing(name, finished[name]) is None:
                self._pieces[name] = finished[name]
                del self._left[name]
        self.done = frozenset(self._places.keys() - self._left.keys())
        return {name: self._pieces[name] for name in self.done}

    def add(self, name: str, first: int, data: memoryview) -> Pieces | None:
        """Note that bytes of a tensor are in the file; all of its pieces once it is whole, None before."""
        piece = [first, len(data), zlib.crc32(data)]
        with self._lock:
            self._pieces[name].append(piece)
            self._left[name] -= len(data)
            if self._left[name] > 0:
                return None
            del self._left[name]
        return self._pieces[name]

    def check_complete(self) -> None:
        """Raises ConversionError when a declared tensor was not written in full."""
        if self._left:
            raise ConversionError(
                f"{len(self._left)} planned tensors were not written, first {min(self._left)}; please report this."
            )

    def check(self, tensors: Mapping[str, Pieces]) -> None:
        """Read tensors again and compare them with what was written.

        Raises:
            VerificationError: the file holds other bytes, or they were not written piece by piece.
            OSError: it cannot be read.
        """
        for name, pieces in tensors.items():
            if not self._is_whole(name, pieces):
                raise VerificationError(f"The pieces of {name} overlap or leave a gap; please report this.")
            first = self._differing(name, pieces)
            if first is not None:
                raise self._gave_back(name, first)

    def check_head(self, head: bytes) -> None:
        """Compare the file's first bytes with its header; raises as ``check`` does."""
        if self._data.checksum(0, len(head)) != zlib.crc32(head):
            raise self._gave_back("the header", 0)

    def _is_whole(self, name: str, pieces: Pieces) -> bool:
        position = 0
        for first, count, _ in sorted(pieces):
            if first != position:
                return False
            position += count
        return position == self._places[name][1].nbytes

    def _differing(self, name: str, pieces: Pieces) -> int | None:
        """The first byte of a piece that the file does not hold as it was written, None when all are right."""
        start, _ = self._places[name]
        wrong = (first for first, count, crc in pieces if self._data.checksum(start + first, count) != crc)
        return next(wrong, None)

    def _gave_back(self, what: str, first: int) -> VerificationError:
        return VerificationError(
            f"{self._folder} gave back other bytes of {what} (from byte {first} on) than were written, and nothing was "
            "kept; check the disk, or choose another folder."
        )
