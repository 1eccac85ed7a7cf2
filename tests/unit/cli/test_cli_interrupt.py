from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.cli.interrupt import Interrupt

LAYERS = 40
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


def test_the_first_signal_asks_and_the_second_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupt() and interrupt.status == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_does_not_disturb_the_cleaning_up_and_a_third_one_does() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_termination_has_its_own_status() -> None:
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt() and interrupt.status == 143


def test_another_thread_installs_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.extend([signal.getsignal(signal.SIGINT), interrupt()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that takes seconds to convert."""
    folder = tmp_path_factory.mktemp("large")
    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    tensors = {
        f"blocks.{index}.{name}.weight": weight.clone() for index in range(LAYERS // 2) for name in ("qkv", "fc")
    }
    save_file(tensors, folder / "large.safetensors")
    return folder / "large.safetensors"


@pytest.mark.parametrize(
    ("signals", "statuses"),
    # A second Ctrl-C may reach Python when it is already exiting; a shell shows that as 130 too.
    [((signal.SIGINT,), {130}), ((signal.SIGTERM,), {143}), ((signal.SIGINT, signal.SIGINT), {130, -2})],
)
def test_a_stopped_conversion_leaves_no_file(
    large: Path, tmp_path: Path, signals: tuple[signal.Signals, ...], statuses: set[int]
) -> None:
    target = tmp_path / "out.safetensors"
    words = ["convert", str(large), str(target), "--recipe", "weight-only", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nvfp4_studio.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 90
    while not any(tmp_path.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.02)
    sent = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode in statuses, err
    assert time.monotonic() - sent < 10
    assert out == ""
    if len(signals) == 1:
        assert len(err.splitlines()) == 1 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
