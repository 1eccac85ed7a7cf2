"""The conversions of this server: those that run, and what became of the last ones. Values only, no ComfyUI."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...calibration.errors import StudioError
from ...converters import Cancelled
from .told import told

FINISHED = 100
"""So many are remembered; a page that was closed meanwhile wants to know what ended."""
EVENT_SECONDS = 1 / 3
RATE_SECONDS = 10.0
"""The rate is that of the last seconds: what a resumed conversion had already is no speed."""


@dataclass
class Conversion:
    """One conversion. ``source`` and ``target`` are ids; ``target`` is a mere name until the plan tells the folder.

    ``skipped``: the file was there already. ``paths``: files that errors may name, and what a page calls them.
    """

    prompt_id: str
    node: str
    source: str
    target: str
    started: float = field(default_factory=time.time)
    done: int = 0
    total: int = 0
    label: str = ""
    error: str | None = None
    cancelled: bool = False
    skipped: bool = False
    ended: float | None = None
    paths: dict[Path, str] = field(default_factory=dict)
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _next_event: float = 0.0

    def update(self, done: int, total: int, label: str) -> bool:
        """Note how far it is; True when it is time to tell the pages."""
        now = time.monotonic()
        if done < self.done or total != self.total:  # another stage: what a search counts is not what is written
            self._seen.clear()
        self.done, self.total, self.label = done, total, label
        self._seen.append((now, done))
        while self._seen[0][0] < now - RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        if now < self._next_event:
            return False
        self._next_event = now + EVENT_SECONDS
        return True

    def rate(self) -> float | None:
        """Bytes a second, None before two updates."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return None
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first)

    def to_json(self) -> dict[str, Any]:
        """What a page shows, of a running one or of a finished one."""
        base = {"prompt_id": self.prompt_id, "node": self.node, "source": self.source, "target": self.target}
        if self.ended is not None:
            said = {"error": self.error, "cancelled": self.cancelled, "skipped": self.skipped}
            return {"state": "finished", **base, **said, "seconds": self.ended - self.started, "ended": self.ended}
        rate = self.rate()
        return {
            "state": "running",
            **base,
            "done": self.done,
            "total": self.total,
            "rate": rate,
            "remaining_s": (self.total - self.done) / rate if rate else None,
            "label": self.label,
            "started": self.started,
        }


class Board:
    """All conversions of one server. ``tell`` is called with an entry whenever the pages should know."""

    def __init__(self, tell: Callable[[dict[str, Any]], None], cancels: tuple[type[BaseException], ...] = ()) -> None:
        self._tell = tell
        self._cancels = (Cancelled, *cancels)
        self._running: list[Conversion] = []
        self._finished: deque[Conversion] = deque(maxlen=FINISHED)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def conversion(self, prompt_id: str, node: str, source: str, target: str) -> Iterator[Conversion]:
        """An entry that runs while the block does, and is remembered with how the block ended."""
        entry = Conversion(prompt_id, node, source, target)
        entry.error = "It ended unexpectedly: ComfyUI's log has the details."
        with self._lock:
            self._running.append(entry)
        self._tell(entry.to_json())
        try:
            yield entry
            entry.error = None
        except self._cancels:
            entry.error, entry.cancelled = None, True
            raise
        except (StudioError, OSError) as error:
            entry.error = told(str(error), entry.paths)
            raise
        finally:
            entry.ended = time.time()
            with self._lock:
                self._running.remove(entry)
                self._finished.append(entry)
            self._tell(entry.to_json())

    def update(self, entry: Conversion, done: int, total: int, label: str) -> None:
        """Note how far a conversion is."""
        if entry.update(done, total, label):
            self._tell(entry.to_json())

    def running(self) -> list[dict[str, Any]]:
        """Entries that run now."""
        with self._lock:
            return [entry.to_json() for entry in self._running]

    def finished(self) -> list[dict[str, Any]]:
        """The last ones that ended, the newest first."""
        with self._lock:
            return [entry.to_json() for entry in reversed(self._finished)]
