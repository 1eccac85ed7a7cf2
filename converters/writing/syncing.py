"""Put what was written on disk now and then, beside the writing; compare it, and only then name it in the journal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from .journal import Journal, Pieces, Remarks
from .positioned import PositionedFile

SYNC_BYTES = 64 << 20
"""How much is written between two entries of the journal: what a kill can cost, and how much waits for the disk at the
end, against the price of a sync, some milliseconds."""


class Syncer:
    """Syncs a file on a thread of its own.

    All methods raise OSError when the disk refused, then or earlier, and what ``check`` raises.
    """

    def __init__(self, data: PositionedFile, journal: Journal, check: Callable[[Mapping[str, Pieces]], None]):
        """Nothing is synced yet.

        Args:
            data, journal: stay the caller's, who calls ``close`` before closing them.
            check: called with tensors that have just been put on disk; raises when the file does not hold them.
        """
        self._data, self._journal, self._check = data, journal, check
        self._lock = threading.Lock()
        self._tensors: dict[str, Pieces] = {}
        self._bytes = 0
        self._remarks: Remarks = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvfp4-studio-sync")
        self._running: Future[None] | None = None

    def remark(self, layer: str, texts: list[str]) -> None:
        """Texts about a layer, for the journal, before or with its tensors."""
        with self._lock:
            self._remarks[layer] = texts

    def add(self, name: str, nbytes: int, pieces: Pieces) -> None:
        """A tensor that was written in full; when there is enough of it, a sync begins."""
        with self._lock:
            self._tensors[name] = pieces
            self._bytes += nbytes
            if self._bytes < SYNC_BYTES or (self._running is not None and not self._running.done()):
                return
            earlier, self._running = self._running, self._thread.submit(self._sync)
        if earlier is not None:
            earlier.result()

    def finish(self) -> None:
        """Return when everything is on disk and in the journal."""
        if self._running is not None:
            self._running.result()
        self._sync()

    def close(self) -> None:
        """Wait for what is under way; nothing more is synced."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _sync(self) -> None:
        with self._lock:
            tensors, self._tensors, self._bytes = self._tensors, {}, 0
            remarks, self._remarks = self._remarks, {}
        self._data.sync()
        self._check(tensors)
        self._journal.add(tensors, remarks)
        self._data.let_go()
