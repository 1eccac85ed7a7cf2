"""What a run shows: a line for each server and one for all on a terminal, sentences for events, figures at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

from ..text import duration

REDRAW_SECONDS = 0.2
UP, CLEAR_LINE, CLEAR_BELOW = "\x1b[{}A", "\x1b[2K", "\x1b[J"


@dataclass
class _Line:
    state: str = "connecting"
    jobs: int = 0
    images: int = 0
    busy: float = 0.0
    here: bool = False

    def text(self) -> str:
        rate = f", {60 * self.images / self.busy:.1f} a minute" if self.busy else ""
        return f"{self.state}; {self.images} images{rate}"


class Status:
    """Told by the driver what happens. Draws on a terminal only; events are printed anywhere."""

    def __init__(
        self,
        servers: Iterable[str],
        total: int,
        done: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = {name: _Line() for name in servers}
        self._total, self._before = total, done
        self._stream = stream if stream is not None else sys.stderr
        self._shown = self._stream.isatty()
        self._clock = clock
        self._started = clock()
        self._drawn_at = -REDRAW_SECONDS
        self._height = 0

    def joined(self, server: str) -> None:
        line = self._lines[server]
        if not line.here and line.state != "connecting":
            self.say(f"{server} is back.")
        line.here, line.state = True, "ready"

    def working(self, server: str, job: int) -> None:
        self._lines[server].state = f"generation {job}"

    def progress(self, server: str, value: object, limit: object) -> None:
        if isinstance(value, (int, float)) and isinstance(limit, (int, float)):
            self._lines[server].state = self._lines[server].state.partition(":")[0] + f": {value:g} of {limit:g}"

    def counted(self, server: str, images: int, seconds: float) -> None:
        line = self._lines[server]
        line.jobs, line.images, line.busy = line.jobs + 1, line.images + images, line.busy + seconds

    def failed(self, server: str, job: int, sentence: str) -> None:
        self.say(f"Generation {job} failed on {server}: {sentence}")

    def idle(self, server: str) -> None:
        self._lines[server].state = "done"

    def stopping(self, server: str) -> None:
        self._lines[server].state = "cancelling"

    def lost(self, server: str, sentence: str) -> None:
        line = self._lines[server]
        if line.here or line.state == "connecting":
            self.say(f"{sentence} Its generation is given back; it joins again when it answers.")
        line.here, line.state = False, "no answer"

    def left_out(self, server: str, sentence: str) -> None:
        self.say(f"{server} is left out: {sentence}")
        self._lines[server].here, self._lines[server].state = False, "left out"

    @property
    def jobs(self) -> int:
        """Generations counted, with those of a run that is continued."""
        return self._before + sum(line.jobs for line in self._lines.values())

    def described(self) -> list[dict[str, Any]]:
        """Per server: url, generations, images, seconds spent on them, last state."""
        return [
            {"url": name, "generations": line.jobs, "images": line.images, "seconds": line.busy, "state": line.state}
            for name, line in self._lines.items()
        ]

    def draw(self) -> None:
        """Redraw the lines, at most five times a second."""
        now = self._clock()
        if not self._shown or now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        width = max(map(len, self._lines))
        lines = [f"{name.ljust(width)}  {line.text()}" for name, line in self._lines.items()]
        self.clear()
        self._stream.write("".join(f"{CLEAR_LINE}{text}\n" for text in [*lines, self._all(now)]))
        self._stream.flush()
        self._height = len(lines) + 1

    def clear(self) -> None:
        """Remove the lines, so that what is printed next stands alone."""
        if self._height:
            self._stream.write(UP.format(self._height) + CLEAR_BELOW)
            self._stream.flush()
            self._height = 0

    def say(self, sentence: str) -> None:
        """Print a sentence above the lines."""
        self.clear()
        self._stream.write(f"{sentence}\n")
        self._stream.flush()
        self._drawn_at = -REDRAW_SECONDS

    def _all(self, now: float) -> str:
        here = self.jobs - self._before
        text = f"{self.jobs} of {self._total} generations"
        elapsed = now - self._started
        if here:
            images = sum(line.images for line in self._lines.values())
            left = (self._total - self.jobs) * elapsed / here
            text += f", {60 * images / elapsed:.1f} images a minute, {duration(left)} left"
        return text
