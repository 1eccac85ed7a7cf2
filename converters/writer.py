"""Write a safetensors file whose tensors are declared beforehand, in any order, from several threads.

All offsets follow from the declarations, so the header is written first and each piece of a tensor goes to
its place when it is ready. The file grows under a temporary name in the target folder, every piece is read
again once it is on disk, and the file gets its real name only when all are what was written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from ..calibration.files import sync_folder
from .containers.layout import TensorSpec, lay_out
from .errors import ConversionError
from .writing.journal import Journal, Remarks
from .writing.positioned import PositionedFile
from .writing.syncing import Syncer
from .writing.target import check_space, check_target, explained, give_name, open_locked, temporary_names
from .writing.written import Written


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
        self.temporary, journal = temporary_names(target)
        self._head, self._places = lay_out(specs, metadata)
        self.size = len(self._head) + sum(spec.nbytes for _, spec in self._places.values())
        self._overwrite = overwrite
        self._journal = Journal(journal, fingerprint)
        check_target(target, overwrite)
        try:
            self._file: BinaryIO | None = open_locked(target, self._journal)
        except OSError as error:
            raise explained(error, target) from error
        self._data = PositionedFile(self._file)
        self._written = Written(self._data, self._places, target.parent)
        self._syncer = Syncer(self._data, self._journal, self._written.check)
        try:
            check_space(target, self.size)
        except ConversionError:
            self._leave()
            raise
        try:
            self._begin()
        except OSError as error:
            self.abort()
            raise explained(error, target) from error

    @property
    def done(self) -> frozenset[str]:
        """Names of tensors that an earlier run finished."""
        return self._written.done

    @property
    def remarks(self) -> Remarks:
        """What an earlier run remarked about layers, whether it finished them or not."""
        return self._journal.remarks

    def _begin(self) -> None:
        """Go on after what a killed run put on disk, as far as it is still what was written, or begin anew."""
        assert self._file is not None
        size = self._file.seek(0, os.SEEK_END)
        finished = self._journal.resume() if size == self.size else {}
        kept = self._written.resume(finished)
        # First the journal: it must never name what the next lines throw away.
        self._journal.start(kept)
        if not self.done:
            self._file.truncate(0)
        self._data.write(0, memoryview(self._head))
        self._file.truncate(self.size)

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
        self.write_piece(name, 0, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def remark(self, layer: str, texts: list[str]) -> None:
        """Keep texts about a layer, at least one, for a run that goes on with this one's work; before its tensors."""
        self._syncer.remark(layer, texts)

    def write_piece(self, name: str, first: int, data: memoryview) -> None:
        """Write bytes of a declared tensor from its byte ``first`` on.

        Raises:
            ConversionError: more bytes than declared, or the disk refuses.
        """
        if name in self.done:
            return  # the same bytes once more, for another tensor of the same layer
        offset, spec = self._places[name]
        if first + len(data) > spec.nbytes:
            raise ConversionError(
                f"{name} was planned with {spec.nbytes} bytes but came out with {first + len(data)}; please report this."
            )
        try:
            self._data.write(offset + first, data)
            pieces = self._written.add(name, first, data)
            if pieces is not None:
                self._syncer.add(name, spec.nbytes, pieces)
        except OSError as error:
            raise explained(error, self.target) from error

    def finish(self) -> Path:
        """Put everything on disk and return the temporary path, for verification.

        Raises:
            ConversionError: a declared tensor was not written in full, or the disk refused.
            VerificationError: the file holds other bytes than were written.
        """
        self._written.check_complete()
        try:
            self._syncer.finish()
            self._written.check_head(self._head)
        except OSError as error:
            raise explained(error, self.target) from error
        return self.temporary

    def fill_in(self, known: Mapping[str, str]) -> None:
        """Replace texts in the header by others of the same length, such as digests that are known only now."""
        assert self._file is not None
        for place, text in known.items():
            if len(place) != len(text) or self._head.count(place.encode()) != 1:
                raise ConversionError(f"The header has no single place for {place!r}; please report this.")
            self._head = self._head.replace(place.encode(), text.encode())
        try:
            self._data.write(0, memoryview(self._head))
            self._data.sync()
            self._written.check_head(self._head)
        except OSError as error:
            raise explained(error, self.target) from error

    def commit(self) -> None:
        """Give the finished file its name.

        Raises:
            ConversionError: there is a target now; or the system refuses, and file and journal stay for another run.
        """
        assert self._file is not None
        check_target(self.target, self._overwrite)
        try:
            if os.name == "nt":
                self._file.close()  # Windows renames no open file
            # Elsewhere the lock is held until the temporary name is gone: nobody can get hold of the file by it.
            give_name(self.target, self._overwrite)
        except OSError as error:
            self._let_go()
            raise ConversionError(
                f"The finished file cannot be named {self.target} ({error.strerror or error}); it is kept, and the same "
                "conversion goes on with it: close what uses that file, and start again."
            ) from error
        with contextlib.suppress(OSError):  # without its file a journal is nothing that a run would go on with
            self._journal.remove()
        self._file.close()
        self._file = None
        try:
            sync_folder(self.target.parent)
        except OSError as error:
            raise explained(error, self.target) from error

    def abort(self) -> None:
        """Remove the temporary file and the journal, if they are still there and ours."""
        self._syncer.close()
        if self._file is None:
            return
        file, self._file = self._file, None
        # The journal goes first, and the lock last: another run must not find the one without the other.
        with contextlib.suppress(OSError):
            self._journal.remove()
        if os.name == "nt":
            file.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.close()

    def _leave(self) -> None:
        """Let go of a temporary file that holds an earlier run's work; an empty one is removed."""
        assert self._file is not None
        if not os.fstat(self._file.fileno()).st_size:
            self.abort()
            return
        self._let_go()

    def _let_go(self) -> None:
        """Close everything, and leave the temporary file and the journal to another run."""
        assert self._file is not None
        self._syncer.close()
        self._journal.close()
        self._file.close()
        self._file = None
