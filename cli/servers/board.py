"""Which jobs are open, at work, counted or given up, and which server may take which."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

ATTEMPTS = 2
"""A job that failed is tried once more, on another server where there is one."""


class Board:
    """Shared by the workers of all servers, within one event loop. Jobs are numbers, servers names."""

    def __init__(self, jobs: Iterable[int]) -> None:
        self._open = list(jobs)
        self._at_work: set[int] = set()
        self._here: set[str] = set()
        self._failures: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self._changed = asyncio.Condition()
        self.given_up: dict[int, str] = {}

    @property
    def unfinished(self) -> bool:
        """Whether there is a job that is neither counted nor given up."""
        return bool(self._open or self._at_work)

    @property
    def anybody(self) -> bool:
        """Whether any server is there to work."""
        return bool(self._here)

    async def enter(self, server: str) -> None:
        self._here.add(server)
        await self._notify()

    async def leave(self, server: str) -> None:
        """The server takes no more jobs; what it had must be given back before."""
        self._here.discard(server)
        await self._notify()

    async def take(self, server: str) -> int | None:
        """The next job for this server; waits while others may still give one back, None when all is done."""
        async with self._changed:
            while self.unfinished:
                job = next((job for job in self._open if self._may(server, job)), None)
                if job is not None:
                    self._open.remove(job)
                    self._at_work.add(job)
                    return job
                await self._changed.wait()
            return None

    async def counted(self, job: int) -> None:
        self._at_work.discard(job)
        await self._notify()

    async def give_back(self, job: int) -> None:
        """The job was not carried out, for no fault of its own."""
        self._at_work.discard(job)
        self._open.insert(0, job)
        await self._notify()

    async def failed(self, job: int, server: str, sentence: str) -> None:
        """The job failed; it is given up after the second time."""
        self._failures[job].append((server, sentence))
        if len(self._failures[job]) < ATTEMPTS:
            await self.give_back(job)
            return
        self.given_up[job] = "; ".join(f"{where}: {why}" for where, why in self._failures[job])
        self._at_work.discard(job)
        await self._notify()

    def _may(self, server: str, job: int) -> bool:
        """Not where it failed before, as long as another server is there."""
        tried = {name for name, _ in self._failures[job]} if job in self._failures else set()
        return server not in tried or not self._here - tried

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
