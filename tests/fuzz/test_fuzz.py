"""A short run of the fuzzer; the long one is ``python tests/fuzz/fuzz.py --runs 100000``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz.py"


def test_a_thousand_inputs_of_each_target() -> None:
    pytest.importorskip("resource", reason="the bounds on memory and time need a POSIX system")
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--runs", "1000", "--together"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("refused with a StudioError, 0 finds") == 8, done.stdout
