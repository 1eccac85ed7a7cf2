"""Carrying out a schedule on one server: cold starts that are cold, warm times that are warm, failures that count.

Before each segment the server is asked to forget everything, so its first picture holds the loading. After anything
that may have moved the model out of memory (a stop, a failure, somebody else's prompt) one picture that nobody counts
is made first.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from ...calibration.files import write_atomically
from ..servers.errors import JobFailed, ServerError, Unreachable
from ..servers.jobs import SEED_BITS
from ..servers.outcome import success
from .asking import BenchServer
from .journal import Journal
from .loading import Loading
from .memory import Peaks, peaks_of
from .schedule import COLD, WARM, Schedule, Segment, Shot
from .timing import Generation, ServedFromCache, read_generation

FREE_SECONDS = 1.0
"""The server's worker wakes up and forgets everything well within this; whether it did is seen and tried again."""

ATTEMPTS = 3
FAILURES_IN_A_ROW = 3
"""After so many a model's other pictures of the block are counted as failed without being tried."""

LOST_TWICE = 2
"""A generation during which the server went away twice counts as failed: it may be what ends the server."""

POLL_SECONDS = 0.2
RETRY_SECONDS = 3
ABSENT_SECONDS = 60
CANCEL_SECONDS = 20
HISTORY_SECONDS = 10


class Runner:
    """One run. `say` is told events, `progress` (generations done, all, what is at work)."""

    def __init__(
        self,
        server: BenchServer,
        loading: Loading,
        files: Sequence[tuple[str, ...]],
        schedule: Schedule,
        journal: Journal,
        *,
        say: Callable[[str], None],
        progress: Callable[[int, int, str], None],
    ) -> None:
        self._server = server
        self._loading = loading
        self._files = files
        self._schedule = schedule
        self._journal = journal
        self._say = say
        self._progress = progress
        self._warm = False
        self._total = len(files) * len(schedule.shots)

    async def run(self, cancelled: Callable[[], bool]) -> bool:
        """Until all is done; False when `cancelled` stopped it. Raises Unreachable when the server stays away."""
        work = asyncio.create_task(self._work())
        try:
            while not work.done() and not cancelled():
                await asyncio.wait({work}, timeout=POLL_SECONDS)
        finally:
            stopped = work.cancel()
            if stopped:
                with contextlib.suppress(asyncio.CancelledError, ServerError):
                    await work
        if stopped:
            return False
        work.result()
        return True

    async def _work(self) -> None:
        for segment in self._schedule.segments():
            while any(not self._is_done(segment, shot) for shot in segment.shots):
                try:
                    await self._carry_out(segment)
                except Unreachable as error:
                    self._say(f"{error} It is waited for.")
                    await self._wait_for_server(error)

    async def _carry_out(self, segment: Segment) -> None:
        await self._forget()
        failures = 0
        for shot in segment.shots:
            if self._is_done(segment, shot):
                continue
            self._progress(len(self._journal.done), self._total, self._files[segment.model][0])
            if failures == FAILURES_IN_A_ROW:
                self._failed(segment, shot, f"not tried: {failures} pictures before it failed")
                continue
            try:
                await self._make(segment, shot)
                failures = 0
            except Unreachable:
                if self._journal.lose(segment.model, shot.number) == LOST_TWICE:
                    self._failed(segment, shot, "twice the server went away while it was made")
                raise
            except ServerError as error:
                self._failed(segment, shot, str(error))
                self._warm = False
                failures += 1

    async def _make(self, segment: Segment, shot: Shot) -> None:
        """Generate until it was cold, or warm, as it has to be, and keep it."""
        cold = shot is segment.shots[0]
        if await self._wait_for_others():
            await self._forget()
        for _ in range(ATTEMPTS):
            if not cold and not self._warm:
                await self._warm_up(segment, shot)
            try:
                generation, peaks = await self._generate(segment.model, shot)
            except ServedFromCache:
                await self._forget()
                continue
            if cold and generation.cached:
                await self._forget()  # it had not forgotten everything yet
                continue
            self._warm = True
            await self._keep(segment, shot, COLD if cold else WARM, generation, peaks)
            return
        raise JobFailed("the server's cache was not empty after asking for it three times.")

    async def _warm_up(self, segment: Segment, shot: Shot) -> None:
        """A picture that is not kept, with a seed and a text of its own: so that the next one's text is not in the cache,
        where it would save the text encoder's time."""
        seed = None if shot.seed is None else secrets.randbits(SEED_BITS)
        text = None if shot.text is None else f"{shot.text} "
        try:
            await self._generate(segment.model, replace(shot, seed=seed, text=text))
        except JobFailed as error:
            raise JobFailed(f"loading the model again: {error}") from error
        self._warm = True

    async def _generate(self, model: int, shot: Shot) -> tuple[Generation, Peaks]:
        server = self._server
        prompt = self._loading.prompt_for(self._files[model], shot)
        prompt_id = str(uuid.uuid4())
        ended = False
        await server.listen()
        try:
            async with peaks_of(server) as peaks:
                try:
                    prompt_id = await server.queue(prompt, prompt_id)
                    await success(server, prompt_id, lambda value, limit: None)
                except JobFailed:
                    ended = True
                    raise
                ended = True
            return read_generation(await self._entry(prompt_id), self._loading.fresh), peaks
        finally:
            if not ended:
                with contextlib.suppress(ServerError):
                    await self._cancel(prompt_id)

    async def _entry(self, prompt_id: str) -> dict[str, Any]:
        """The history gets its entry a moment after the success is told."""
        end = time.monotonic() + HISTORY_SECONDS
        while (entry := await self._server.ended(prompt_id)) is None:
            if time.monotonic() > end:
                raise JobFailed("the server's history does not know it.")
            await asyncio.sleep(POLL_SECONDS / 4)
        return entry

    async def _keep(self, segment: Segment, shot: Shot, kind: str, generation: Generation, peaks: Peaks) -> None:
        names = []
        for index, place in enumerate(generation.pictures):
            suffix = PurePath(place["filename"]).suffix.lower()
            path = self._journal.picture_path(segment.model, shot.number, index, suffix)
            write_atomically(path, await self._server.picture(place))
            names.append(path.relative_to(self._journal.folder).as_posix())
        self._journal.record(
            {
                **_where(segment, shot),
                "kind": kind,
                "seconds": round(generation.seconds, 3),
                "pictures": names,
                "films": generation.others,
                "reloaded": kind == WARM and not (self._loading.loaders <= generation.cached),
                "memory": dict(peaks),
            }
        )

    def _failed(self, segment: Segment, shot: Shot, reason: str) -> None:
        reason = reason.replace(self._server.name, "the server")  # a result is passed on, an address is not
        self._journal.record({**_where(segment, shot), "failed": reason})
        self._say(f"{self._files[segment.model][0]}, picture {shot.number}: {reason}")

    def _is_done(self, segment: Segment, shot: Shot) -> bool:
        return (segment.model, shot.number) in self._journal.done

    async def _forget(self) -> None:
        self._warm = False
        await self._server.free()
        await asyncio.sleep(FREE_SECONDS)

    async def _wait_for_others(self) -> bool:
        """Until nobody else's prompt is queued, which would compute at the same time; whether one was."""
        waited = False
        while await self._server.queued():
            if not waited:
                self._say("Another prompt is in the server's queue; it is waited for.")
            waited = True
            await asyncio.sleep(RETRY_SECONDS)
        return waited

    async def _wait_for_server(self, error: Unreachable) -> None:
        end = time.monotonic() + ABSENT_SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(RETRY_SECONDS)
            with contextlib.suppress(Unreachable):
                await self._server.system_stats()
                await self._server.close_socket()
                return
        raise Unreachable(f"{error} The same command continues when it is back.") from error

    async def _cancel(self, prompt_id: str) -> None:
        """Cancel the prompt and wait until the server is done with it."""
        await self._server.cancel(prompt_id)
        end = time.monotonic() + CANCEL_SECONDS
        while prompt_id in await self._server.queued() and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)


def _where(segment: Segment, shot: Shot) -> dict[str, Any]:
    return {"model": segment.model, "picture": shot.number, "block": segment.block + 1, "place": segment.place + 1}
