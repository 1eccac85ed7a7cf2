"""A progress bar of one line, on a terminal only."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from .text import duration, size

REDRAW_SECONDS = 0.1
SETTLE_SECONDS = 1.0
"""Before this much time has passed a rate is a guess and is not shown."""
BYTES_FROM = 100_000


class Bar:
    """Shows (done, total, label) as a bar with rate and remaining time; nothing when stderr is no terminal.

    Call it as the `progress` of the converter. When `done` falls back, or `total` changes, a new stage has
    begun and the rate starts anew. Totals from 100 000 on are shown as bytes, smaller ones as a count of
    steps. Leaving the context clears the line.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._shown = self._stream.isatty()
        self._clock = clock
        self._stage: tuple[int, float, int] | None = None
        self._last_done = 0
        self._drawn_at = -1.0
        self._width = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def __call__(self, done: int, total: int, label: str) -> None:
        if not self._shown:
            return
        now = self._clock()
        if self._stage is None or self._stage[2] != total or done < self._last_done:
            self._stage = (done, now, total)
            self._drawn_at = -1.0
        self._last_done = done
        if now - self._drawn_at < REDRAW_SECONDS and done < total:
            return
        self._drawn_at = now
        self._draw(self._line(done, total, label, now))

    def clear(self) -> None:
        """Remove the line, so that what is printed next stands alone."""
        if self._shown and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def _line(self, done: int, total: int, label: str, now: float) -> str:
        assert self._stage is not None
        share = min(1.0, done / total) if total > 0 else 0.0
        first, since, _ = self._stage
        amount = size if total >= BYTES_FROM else _count
        figures = f"{share:4.0%} {amount(done)}/{amount(total)}"
        elapsed = now - since
        if elapsed >= SETTLE_SECONDS and done > first:
            rate = (done - first) / elapsed
            figures += f" {amount(rate)}/s {duration((total - done) / rate)} left"
        columns = shutil.get_terminal_size((80, 24)).columns - 1
        bar_width = max(0, min(24, columns - len(figures) - 24))
        filled = round(share * bar_width)
        bar = f"[{'#' * filled}{'-' * (bar_width - filled)}] " if bar_width >= 6 else ""
        return f"{bar}{figures} {label}"[: max(1, columns)]

    def _draw(self, line: str) -> None:
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)


def _count(number: float) -> str:
    return f"{number:.3g}"
