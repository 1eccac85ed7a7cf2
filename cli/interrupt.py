"""Ctrl-C that lets the work end cleanly, and a further one that does not wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # a closed terminal; Windows has none
    SIGNALS.append(signal.SIGHUP)


class Interrupted(Exception):
    """The user stopped the work; `status` is the exit status that shells expect: 128 + the signal's number."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Interrupt:
    """Within this context the first SIGINT, SIGTERM or SIGHUP only makes the object, called, return True.

    It is the `cancelled` that the converter asks several times a second. The second signal raises
    KeyboardInterrupt, which unwinds through every clean-up, unless the work has been told of the first: then it
    is cleaning up already, and only a third one stops that. Handlers are put back on leaving; outside of the
    main thread, where Python allows no handlers, nothing is installed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._told = False
        self._ignored = False
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        self._told = self.signal is not None
        return self._told

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for kind in SIGNALS:
                self._before[kind] = signal.signal(kind, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """Exit status after the signal: 130 for Ctrl-C, 143 for a termination."""
        return 128 + (self.signal or signal.SIGINT)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        elif self._told and not self._ignored:
            self._ignored = True
        else:
            raise KeyboardInterrupt
