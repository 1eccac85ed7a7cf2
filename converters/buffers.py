"""Memory for what is on its way from the source to the output: bounded, and used again and again.

Fresh memory costs a page fault for every 4 KiB, which took a third of a conversion's time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

CHECK_SECONDS = 0.2


class Buffer:
    """A piece of memory with a number of users; the last one to release it gives it back."""

    def __init__(self, pool: Buffers, memory: bytearray, size: int, users: int):
        self._pool = pool
        self.memory = memory
        self.view = memoryview(memory)[:size]
        self._users = users

    def release(self) -> None:
        self._pool.give_back(self)

    def _done(self) -> bool:
        self._users -= 1
        return self._users == 0


class Buffers:
    """Hands out memory as long as at most ``limit`` bytes are in use, or nothing is.

    What is given back is kept for the next, but never so much that all of it exceeds the limit.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._used = 0
        self._free: list[bytearray] = []
        self._changed = threading.Condition()

    def take(self, size: int, users: int, check: Callable[[], None]) -> Buffer:
        """Return ``size`` bytes, waiting for others to be given back; ``check`` may raise to cancel the waiting."""
        while True:
            check()
            with self._changed:
                if self._used and self._used + size > self._limit:
                    self._changed.wait(CHECK_SECONDS)
                    continue
                memory = self._fitting(size)
                self._used += len(memory)
                return Buffer(self, memory, size, users)

    def give_back(self, buffer: Buffer) -> None:
        """Called by each user when it is done."""
        with self._changed:
            if buffer._done():
                self._used -= len(buffer.memory)
                self._free.append(buffer.memory)
                self._changed.notify_all()

    def _fitting(self, size: int) -> bytearray:
        """The smallest free memory that is large enough but not twice as large, else new memory."""
        fitting = [memory for memory in self._free if size <= len(memory) <= 2 * size]
        if fitting:
            found = min(fitting, key=len)
            self._free = [memory for memory in self._free if memory is not found]
            return found
        self._free.sort(key=len)
        while self._free and self._used + size + sum(map(len, self._free)) > self._limit:
            self._free.pop()
        return bytearray(size)
