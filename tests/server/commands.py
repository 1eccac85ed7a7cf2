"""A verb of the command line as a process, which tests stop, kill and start again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Command:
    """A verb and its words, run in a folder of its own; subclasses know where its journal lies."""

    folder: Path
    words: list[str]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "nvfp4_studio.cli", *self.words, "--json"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, status: int = 0) -> dict[str, Any]:
        """To the end; what it printed as JSON, and what was said."""
        return finished(self.start(), status)

    def done(self) -> int:
        """Generations in the journal."""
        raise NotImplementedError

    def wait_for(self, count: int, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 120
        while self.done() < count:
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.02)


def finished(process: subprocess.Popen[str], status: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, f"{out}\n{err}"
    assert "Traceback" not in err
    return {**(json.loads(out) if out else {}), "said": err}
