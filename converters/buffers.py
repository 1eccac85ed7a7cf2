"""Memory for what is on its way from the source to the output: bounded, and used again and again.

Fresh memory costs a page fault for every 4 KiB, which took a third of a conversion's time. So all parts lie in one
piece of memory, wherever there is room between the others.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable

CHECK_SECONDS = 0.2
ALIGNMENT = 4096
"""Parts begin on a page, so that they are aligned for every dtype."""


class Buffer:
    """A piece of memory with a number of users; the last one to release it gives it back."""

    def __init__(self, pool: Buffers, memory: memoryview, place: tuple[int, int] | None, users: int):
        self._pool = pool
        self.view = memory
        self.place = place
        self._users = users

    def release(self) -> None:
        self._pool.give_back(self)

    def _done(self) -> bool:
        self._users -= 1
        return self._users == 0


class Buffers:
    """Hands out parts of ``limit`` bytes of memory; what is larger gets memory of its own, when nothing else is in use."""

    def __init__(self, limit: int):
        self._limit = limit
        # Not bytearray, which fills its memory at once, however little of it will be needed.
        self._memory = memoryview(mmap.mmap(-1, limit))
        self._used: list[tuple[int, int]] = []
        self._larger = 0
        self._changed = threading.Condition()

    def take(self, size: int, users: int, check: Callable[[], None]) -> Buffer:
        """Return ``size`` bytes, waiting for others to be given back; ``check`` may raise to cancel the waiting."""
        while True:
            check()
            with self._changed:
                if size > self._limit and not self._used and not self._larger:
                    self._larger += 1
                    return Buffer(self, memoryview(bytearray(size)), None, users)
                start = None if self._larger else self._room(size)
                if start is not None:
                    place = (start, start + size)
                    self._used.append(place)
                    self._used.sort()
                    return Buffer(self, self._memory[start : start + size], place, users)
                self._changed.wait(CHECK_SECONDS)

    def give_back(self, buffer: Buffer) -> None:
        """Called by each user when it is done."""
        with self._changed:
            if buffer._done():
                if buffer.place is None:
                    self._larger -= 1
                else:
                    self._used.remove(buffer.place)
                self._changed.notify_all()

    def _room(self, size: int) -> int | None:
        """The first place with ``size`` free bytes, None when there is none."""
        start = 0
        for first, last in self._used:
            if start + size <= first:
                return start
            start = max(start, -(-last // ALIGNMENT) * ALIGNMENT)
        return start if start + size <= self._limit else None
