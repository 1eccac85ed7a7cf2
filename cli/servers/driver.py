"""Carrying out jobs on several servers at once, so that each one is counted exactly once.

Every attempt uses a calibration name of its own on the server, begun anew, so that whatever a lost or interrupted
attempt leaves behind can never be taken for another one's result. A job is counted in one place, the work folder,
after its statistics have arrived whole; then they are deleted on the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ...converters.sensitivity import beside
from .board import Board
from .client import Server
from .errors import JobFailed, ServerError, Unreachable
from .factors import Found, apply
from .insertion import CALIBRATE, Calibrated
from .jobs import Job
from .journal import DifferentModel, WorkFolder
from .outcome import success
from .pack import Pack, require_same
from .status import Status

POLL_SECONDS = 0.2
RETRY_SECONDS = 5
ABSENT_SECONDS = 60
"""When no server answers for this long the run ends; the same command continues it."""

CANCEL_SECONDS = 20
FAILURES_IN_A_ROW = 3
"""A server on which nothing succeeds between this many failures is left out: it would use up every job's attempts."""


class Driver:
    """One run over the servers. `status` is told everything that is shown."""

    def __init__(
        self,
        servers: Sequence[Server],
        jobs: Sequence[Job],
        workflow: Calibrated,
        found: Found,
        folder: WorkFolder,
        *,
        name: str,
        detail: str | None,
        influence: bool,
        reference: tuple[Server, Pack],
        status: Status,
    ) -> None:
        self._servers = servers
        self._jobs = {job.number: job for job in jobs if job.number not in folder.done}
        self._workflow = workflow
        self._found = found
        self._folder = folder
        self._prefix = f"{name}.{folder.run}."
        self._detail = detail
        self._influence = influence
        self._reference = reference
        self._status = status
        self._active: set[str] = set()
        self._counting = asyncio.Lock()
        self.board = Board(self._jobs)

    async def run(self, cancelled: Callable[[], bool]) -> None:
        """Work until every job is counted or given up, no server is left, or `cancelled`; then clean up."""
        workers = [asyncio.create_task(self._work(server)) for server in self._servers]
        pending = set(workers)
        seen = time.monotonic()
        try:
            while pending and self.board.unfinished and not cancelled():
                done, pending = await asyncio.wait(pending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for worker in done:
                    worker.result()
                self._status.draw()
                if self.board.anybody:
                    seen = time.monotonic()
                if time.monotonic() - seen > ABSENT_SECONDS:
                    break
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await asyncio.gather(*(self._sweep_if_there(server) for server in self._servers))

    def missing(self) -> dict[int, str]:
        """Jobs that were not counted, and why."""
        left = {number: "no server was left for it" for number in self._jobs if number not in self._folder.done}
        return {**left, **self.board.given_up}

    async def _work(self, server: Server) -> None:
        """The life of one server in the run: take jobs, go away with it, come back with it."""
        while self.board.unfinished:
            try:
                await require_same(server, self._reference)
                await self._sweep(server)
                await server.listen()
                await self.board.enter(server.name)
                self._status.joined(server.name)
                await self._take_jobs(server)
            except Unreachable as error:
                self._status.lost(server.name, str(error))
                await self.board.leave(server.name)
                await asyncio.sleep(RETRY_SECONDS)
            except DifferentModel:
                raise
            except ServerError as error:
                self._status.left_out(server.name, str(error))
                await self.board.leave(server.name)
                return

    async def _take_jobs(self, server: Server) -> None:
        failures = 0
        while (number := await self.board.take(server.name)) is not None:
            started = time.monotonic()
            settled = False
            try:
                images = await self._generate(server, self._jobs[number])
                settled = True
                await self.board.counted(number)
                self._status.counted(server.name, images, time.monotonic() - started)
                failures = 0
            except JobFailed as error:
                settled = True
                await self.board.failed(number, server.name, str(error))
                self._status.failed(server.name, number, str(error))
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    raise ServerError(f"{failures} generations in a row failed, the last one with: {error}") from error
            finally:
                if not settled:
                    await self.board.give_back(number)
        self._status.idle(server.name)

    async def _generate(self, server: Server, job: Job) -> int:
        """Queue the job, wait for it, count it; the number of its images. Nothing stays on the server."""
        names = [f"{self._prefix}{job.number}.{uuid.uuid4().hex[:8]}" for _ in self._workflow.nodes]
        prompt = self._workflow.for_job(names, self._detail, self._influence)
        apply(prompt, self._found, job.levels)
        prompt_id = str(uuid.uuid4())
        self._active |= {prompt_id, *names}
        ended = False
        try:
            self._status.working(server.name, job.number)
            try:
                prompt_id = await server.queue(prompt, prompt_id)
            except Unreachable:
                raise
            except ServerError as error:
                ended = True
                raise ServerError(f"it does not accept the workflow: {error}") from error
            self._active.add(prompt_id)
            try:
                await success(server, prompt_id, partial(self._status.progress, server.name))
            except JobFailed:
                ended = True
                raise
            ended = True
            return await self._count(server, job, names)
        finally:
            with contextlib.suppress(ServerError):  # swept when it comes back, and at the end
                if not ended:
                    await self._cancel(server, prompt_id)
                for name in names:
                    await server.delete(name)
            self._active -= {prompt_id, *names}

    async def _count(self, server: Server, job: Job, names: Sequence[str]) -> int:
        files = [self._folder.temporary(job.number, index) for index in range(len(names))]
        try:
            for name, path, behind in zip(names, files, self._workflow.behind, strict=True):
                if not await server.download(name, path):
                    raise JobFailed(f"the server kept no statistics of {behind}: no sampler ran with that model.")
                await server.download_influence(name, beside(path))
            async with self._counting:
                return await _to_its_end(self._folder.count, job.number, files)
        except DifferentModel as error:
            raise DifferentModel(
                f"{server.name} samples another model than the servers before it ({error}): leave it out, or give it "
                "the same file; what was counted before is kept."
            ) from error
        except (Unreachable, JobFailed):
            raise
        except ServerError as error:
            raise JobFailed(str(error)) from error
        finally:
            for path in files:
                path.unlink(missing_ok=True)
                beside(path).unlink(missing_ok=True)

    async def _cancel(self, server: Server, prompt_id: str) -> None:
        """Cancel the prompt and wait until the server is done with it, because only then nothing more is written."""
        self._status.stopping(server.name)
        await server.cancel(prompt_id)
        end = time.monotonic() + CANCEL_SECONDS
        while prompt_id in await server.queued() and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)

    async def _sweep(self, server: Server) -> None:
        """Remove what this run left on the server when it, the server or the network went away."""
        for prompt_id, (_, prompt) in (await server.queued()).items():
            if prompt_id not in self._active and self._is_ours(prompt):
                await self._cancel(server, prompt_id)
        _, names = await server.calibrations()
        for name in names:
            if name.startswith(self._prefix) and name not in self._active:
                await server.delete(name)

    async def _sweep_if_there(self, server: Server) -> None:
        try:
            await self._sweep(server)
        except ServerError as error:
            self._status.say(f"{error} Calibrations named {self._prefix}* may be left on it.")

    def _is_ours(self, prompt: Mapping[str, Any]) -> bool:
        for node in prompt.values():
            if isinstance(node, dict) and node.get("class_type") == CALIBRATE:
                inputs = node.get("inputs")
                if isinstance(inputs, dict) and str(inputs.get("name")).startswith(self._prefix):
                    return True
        return False


async def _to_its_end(work: Callable[..., int], *arguments: Any) -> int:
    """Run this on a thread; a cancel takes effect when it has ended."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
