"""Runs the other scripts, each in a process of its own that has ComfyUI imported already: importing takes ten seconds.

Called with the JSON of `bootstrap`. Reads a line of JSON for each script, {"script", "request", "output", "seconds"}, and
answers with its exit status when it has ended; what the script printed is in the file `output`. Where processes cannot be
forked, each script begins with nothing imported.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FORKS = hasattr(os, "fork")
if FORKS:
    import bootstrap


def forked(asked: dict[str, Any]) -> int:
    """The exit status of the script in a copy of this process; minus the signal when it took longer than it may."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(asked["seconds"])
    with open(asked["output"], "wb") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    bootstrap.REQUEST.update(asked["request"])
    runpy.run_path(asked["script"], run_name="__main__")  # what it raises ends this process as it would end the script
    sys.stdout.flush()
    os._exit(0)


def started(asked: dict[str, Any]) -> int:
    """The same with a new interpreter."""
    command = [sys.executable, asked["script"], json.dumps({**json.loads(sys.argv[1]), **asked["request"]})]
    with Path(asked["output"]).open("wb") as output:
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=asked["seconds"]).returncode


for line in sys.stdin:
    status = (forked if FORKS else started)(json.loads(line))
    print(f"STATUS {status}", flush=True)
