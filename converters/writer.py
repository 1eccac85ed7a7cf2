"""Write a safetensors file whose tensors are declared beforehand, one tensor at a time, in any order.

All offsets follow from the declarations, so the header is written first and each tensor goes to its
place when it is ready: memory holds one tensor. The file grows under a temporary name in the target
folder and gets its real name only when it is complete, on disk and verified.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from ..calibration.files import sync_folder
from .errors import ConversionError
from .journal import Journal, lock, open_private
from .source import CODES

SPACE_RESERVE = 16 << 20
"""Free bytes that must remain after the file: reports and the file system's own needs."""


SYNC_BYTES = 256 << 20
"""How much is written between two entries of the journal: what a kill can cost, against the price of a sync."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def lay_out(
    specs: Iterable[TensorSpec], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, TensorSpec]]]:
    """Return the file's first bytes and each tensor's absolute offset.

    Wider dtypes come first and the header is padded to 8 bytes, so that every tensor is aligned to
    its element size, which readers that map the file rely on. Names order the rest: the layout does
    not depend on the order of declaration.
    """
    ordered = sorted(specs, key=lambda spec: (-spec.dtype.itemsize, spec.name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    places: dict[str, tuple[int, TensorSpec]] = {}
    for spec in ordered:
        places[spec.name] = (position, spec)
        end = position + spec.nbytes
        header[spec.name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {
        name: (start + offset, spec) for name, (offset, spec) in places.items()
    }


class Writer:
    """A safetensors file in the making. Use as a context manager.

    Leaving it without ``commit`` removes everything. A process that is killed leaves the temporary file
    and its journal behind: the next ``Writer`` for the same target with the same ``fingerprint`` goes on
    from there (``done`` names what need not be written again), any other one starts anew.
    """

    def __init__(
        self,
        target: Path,
        specs: Iterable[TensorSpec],
        metadata: Mapping[str, str],
        *,
        overwrite: bool,
        fingerprint: str = "",
    ):
        """Check the target and the free space, lock the temporary file, write the header.

        Args:
            target: the file to be.
            specs: every tensor that will be written.
            metadata: the header's ``__metadata__``.
            overwrite: whether an existing target may be replaced.
            fingerprint: tells conversions apart that would write other bytes.

        Raises:
            ConversionError: the target exists, its folder does not, too little space, no permission, or
                another conversion is writing to the same target.
        """
        self.target = target
        self.temporary = target.with_name(f".{target.name}.part")
        self._head, self._places = lay_out(specs, metadata)
        self.size = len(self._head) + sum(spec.nbytes for _, spec in self._places.values())
        self.done: frozenset[str] = frozenset()
        self._missing = set(self._places)
        self._unsynced: list[str] = []
        self._unsynced_bytes = 0
        self._overwrite = overwrite
        self._journal = Journal(target.with_name(f".{target.name}.journal"), fingerprint)
        self._check_target()
        try:
            self._file: BinaryIO | None = self._locked()
        except OSError as error:
            raise _explained(error, target) from error
        try:
            self._check_space()
            self._begin()
        except OSError as error:
            self.abort()
            raise _explained(error, target) from error
        except ConversionError:
            self.abort()
            raise

    def _locked(self) -> BinaryIO:
        """Open and lock the temporary file. Another process may rename or remove it in between: then try again."""
        while True:
            file = open_private(self.temporary)
            ours = False
            try:
                if not lock(file):
                    raise ConversionError(
                        f"Another conversion is writing {self.target}; wait for it or choose another name."
                    )
                with contextlib.suppress(FileNotFoundError):
                    ours = os.path.samestat(os.fstat(file.fileno()), os.stat(self.temporary))
            finally:
                if not ours:
                    file.close()
            if ours:
                return file

    def _begin(self) -> None:
        """Write the header, or find that a killed run wrote it and go on after what is on disk."""
        assert self._file is not None
        self._file.seek(0, os.SEEK_END)
        complete = self._file.tell() == self.size
        self._file.seek(0)
        if complete and self._file.read(len(self._head)) == self._head:
            self.done = frozenset(self._journal.resume() & self._missing)
        if not self.done:
            self._file.seek(0)
            self._file.truncate(0)
            self._file.write(self._head)
            self._file.truncate(self.size)
            self._file.flush()
        self._missing -= self.done
        self._journal.start(set(self.done))

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write a declared tensor; dtype and shape must be the declared ones."""
        _, spec = self._places[name]
        if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
            raise ConversionError(
                f"{name} was planned as {spec.dtype} {spec.shape} but came out as {tensor.dtype} {tuple(tensor.shape)}; "
                "please report this."
            )
        raw = tensor.contiguous().reshape(-1).view(torch.uint8)
        self.write_bytes(name, [raw.numpy().data] if tensor.numel() else [])

    def write_bytes(self, name: str, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write a declared tensor's bytes, in pieces."""
        assert self._file is not None
        offset, spec = self._places[name]
        written = 0
        try:
            self._file.seek(offset)
            for chunk in chunks:
                written += len(chunk)
                self._file.write(chunk)
        except OSError as error:
            raise _explained(error, self.target) from error
        if written != spec.nbytes:
            raise ConversionError(
                f"{name} was planned with {spec.nbytes} bytes but came out with {written}; please report this."
            )
        self._missing.discard(name)
        self._unsynced.append(name)
        self._unsynced_bytes += written
        if self._unsynced_bytes >= SYNC_BYTES:
            self._sync()

    def _sync(self) -> None:
        """Put what was written on disk, and only then into the journal."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._journal.add(self._unsynced)
        except OSError as error:
            raise _explained(error, self.target) from error
        self._unsynced = []
        self._unsynced_bytes = 0

    def finish(self) -> Path:
        """Put everything on disk and return the temporary path, for verification.

        Raises:
            ConversionError: a declared tensor was never written, or the disk refused.
        """
        if self._missing:
            raise ConversionError(
                f"{len(self._missing)} planned tensors were not written, first {min(self._missing)}; please report this."
            )
        self._sync()
        return self.temporary

    def fill_in(self, known: Mapping[str, str]) -> None:
        """Replace texts in the header by others of the same length, such as digests that are known only now."""
        assert self._file is not None
        head = self._head
        for place, text in known.items():
            if len(place) != len(text) or head.count(place.encode()) != 1:
                raise ConversionError(f"The header has no single place for {place!r}; please report this.")
            head = head.replace(place.encode(), text.encode())
        try:
            self._file.seek(0)
            self._file.write(head)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _explained(error, self.target) from error

    def commit(self) -> None:
        """Give the finished file its name."""
        assert self._file is not None
        self._check_target()
        try:
            if os.name == "nt":
                self._file.close()  # Windows renames no open file
            # Elsewhere the lock is held until the temporary name is gone: nobody can get hold of the file by it.
            os.replace(self.temporary, self.target)
            self._file.close()
            self._file = None
            sync_folder(self.target.parent)
            self._journal.remove()
        except OSError as error:
            raise _explained(error, self.target) from error

    def abort(self) -> None:
        """Remove the temporary file and the journal, if they are still there and ours."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            if os.name == "nt":
                file.close()
            self.temporary.unlink(missing_ok=True)
            file.close()
        except OSError:
            self.temporary.unlink(missing_ok=True)  # what was still buffered is thrown away on purpose
        finally:
            self._journal.remove()

    def _check_target(self) -> None:
        if not self.target.parent.is_dir():
            raise ConversionError(
                f"The folder {self.target.parent} does not exist; create it or choose another output."
            )
        if self.target.is_dir() or (os.path.lexists(self.target) and not self._overwrite):
            raise ConversionError(f"{self.target} exists already; choose another name or allow overwriting.")

    def _check_space(self) -> None:
        assert self._file is not None
        allocated = getattr(os.fstat(self._file.fileno()), "st_blocks", 0) * 512
        free = shutil.disk_usage(self.target.parent).free + allocated
        if free < self.size + SPACE_RESERVE:
            raise ConversionError(
                f"{self.target.parent} has {free / 1e9:.2f} GB free but the output needs {self.size / 1e9:.2f} GB; "
                "make room or choose another folder."
            )


def _explained(error: OSError, target: Path) -> ConversionError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConversionError(
            f"The disk of {target.parent} is full; nothing was left behind. Make room and start again."
        )
    return ConversionError(f"{target} cannot be written: {error.strerror or error}.")
