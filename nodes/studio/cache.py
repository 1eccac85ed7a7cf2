"""What was read from files, kept for as long as the files do not change."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")

SETTLED_NS = 2_000_000_000
"""Files that changed so recently are not kept: the next change may carry the same time on coarse file systems."""
Stamps = dict[Path, tuple[int, int]]


class FileCache(Generic[Value]):
    """Values by key, each with the files it was made from; the one that was used longest ago goes first.

    A value is given again only while every file has the size and the time of change (in ns) that it had when the
    value was made. Safe from several threads; two that ask at once may both make the value.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, tuple[Value, Stamps]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[Value, Iterable[Path]]]) -> Value:
        """The value of this key, made anew by ``make``, which also names the files, when it is not there or old."""
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and _stamps(kept[1]) == kept[1]:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
            return kept[0]
        with self._lock:
            self._kept.pop(key, None)
        del kept  # an old value may hold its file open
        started = time.time_ns()
        value, files = make()
        stamps = _stamps(files)
        if stamps is not None and all(changed < started - SETTLED_NS for _, changed in stamps.values()):
            with self._lock:
                self._kept[key] = value, stamps
                self._kept.move_to_end(key)
                while len(self._kept) > self._capacity:
                    self._kept.popitem(last=False)
        return value

    def forget_old(self) -> None:
        """Drop values whose files changed: some hold them open, and what was deleted leaves the disk when it is closed."""
        with self._lock:
            known = list(self._kept.items())
        for key, value in known:
            if _stamps(value[1]) != value[1]:
                with self._lock:
                    if self._kept.get(key) is value:
                        del self._kept[key]


def _stamps(files: Iterable[Path]) -> Stamps | None:
    """Size and time of change of each file, None when one is gone."""
    found = {}
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            return None
        found[path] = stat.st_size, stat.st_mtime_ns
    return found
