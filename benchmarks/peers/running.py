"""Running a converter as a process of its own: time, memory, last words, and being killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Run:
    """How a process ended.

    seconds: from starting the process to its end, interpreter start included.
    cpu_seconds: of all its threads, in user mode and in the kernel.
    peak_mb: largest resident memory of the process (with mapped file pages), MB of 2^20 bytes.
    status: exit status, negative when a signal ended it.
    log: what it wrote.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    status: int
    log: Path

    def last_words(self) -> str:
        """The last line that it wrote: for most programs the error."""
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.status}"


def run(
    command: list[str],
    import_from: Path | None,
    threads: int,
    log: Path,
    timeout: float,
    kill_when: Callable[[float], bool] = lambda seconds: False,
) -> Run:
    """Run a command to its end, or until ``kill_when`` (given the seconds so far) wants it killed.

    import_from: folder that the process's Python imports from, beside its environment.
    threads: threads that torch may use and, on Linux, processors that the whole process may use: programs
        with threads of their own get no more than the others.

    The peak counts this process's own memory too while it starts the child, so this process stays
    small: it imports no torch.
    """
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(threads, import_from),
            preexec_fn=lambda: _keep_to(threads),
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - started
            if pid:
                break
            if seconds > timeout or kill_when(seconds):
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                break
            time.sleep(POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit, process.returncode, log)


def _keep_to(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def _environment(threads: int, import_from: Path | None) -> dict[str, str]:
    """This process's environment with an equal number of threads for everybody and no GPU in sight."""
    count = str(threads)
    result = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "CUDA_VISIBLE_DEVICES": ""}
    if import_from is not None:
        result["PYTHONPATH"] = str(import_from)
    return result
