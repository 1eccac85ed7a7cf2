"""Do work some items ahead on a few threads and take the results in order.

Reading, quantizing and measuring release Python's global lock, so threads overlap them with writing.
The number of threads changes nothing but the time: results come in the order of the items.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes in all, what is being done)."""


def no_progress(done: int, total: int, label: str) -> None:
    """The default for callers that show nothing."""


def never() -> bool:
    """The default for callers that cannot cancel."""
    return False


MAX_WORKERS = 4
"""More gain little, because the disk becomes the limit, and each holds a tensor in memory."""


def default_workers(device: torch.device | None = None) -> int:
    """One thread for each core that this process may use, at most ``MAX_WORKERS``; one where a GPU computes.

    Several would only share the GPU.
    """
    if device is not None and device.type != "cpu":
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, usable))


def ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Yield each item with ``function(item)``, in order, at most ``workers`` results ahead.

    An exception of ``function`` is raised where its result was due; what is still running is waited
    for, what has not begun is dropped.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="nvfp4-studio") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's own operations on one CPU thread within the block.

    The work is done in pieces that fit a cache, too small to share; on a busy machine the spinning of
    torch's threads made a conversion seven times slower. The previous number is restored.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
