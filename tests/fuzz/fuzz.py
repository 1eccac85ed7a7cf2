"""Feed mutated files to everything that reads files: ``python tests/fuzz/fuzz.py --runs 100000 [--target header]``.

Each target runs in a process of its own with a bound on its memory, each input with a bound on its
time. A find is anything but a result or a ``StudioError`` whose text is one printable line: another
exception, too much time, too much memory, a crash. Inputs follow from ``--seed`` and their number;
``--only N`` repeats one. Where atheris is installed, ``--atheris`` searches by coverage instead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from subprocess import PIPE
from types import FrameType
from typing import Any

if {"--inside", "--atheris"} <= set(sys.argv):
    import atheris

    with atheris.instrument_imports(include=["nvfp4_studio"]):
        import targets
else:
    import targets

from nvfp4_studio.calibration.errors import StudioError

SECONDS_AN_INPUT = 2.0
MEMORY = 512 << 20
"""Address space beyond what the process has after its imports; inputs are smaller than 100 kB."""
SMALL = 64 << 20
"""Growth of the peak resident memory over all runs that counts as a find."""
MOST_FINDS = 20
NAMES = tuple(targets.TARGETS)


class Hang(BaseException):
    """An input took too long. No Exception, so that nobody's ``except`` hides it."""


def main() -> int:
    """Run and report; 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--target", choices=NAMES, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run a single input and show its traceback")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of finds")
    parser.add_argument("--together", action="store_true", help="all targets in one process, which starts faster")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage, one target; needs atheris")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = arguments.target or list(NAMES)
    if arguments.inside:
        return inside(chosen, arguments)
    groups = [chosen] if arguments.together else [[name] for name in chosen]
    return 1 if sum(outside(group, arguments) for group in groups) else 0


def outside(names: list[str], arguments: argparse.Namespace) -> int:
    """Start a process for some targets, and print what it found and what it took."""
    command = [sys.executable, __file__, "--inside", *(f"--target={name}" for name in names)]
    command += ["--runs", str(arguments.runs), "--seed", str(arguments.seed)]
    command += ["--only", str(arguments.only)] if arguments.only is not None else []
    command += ["--keep", str(arguments.keep)] if arguments.keep else []
    command += ["--atheris"] if arguments.atheris else []
    limit = None if arguments.atheris else (60 + arguments.runs * 0.05) * len(names)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, timeout=limit, stdout=None if arguments.atheris else PIPE)
    except subprocess.TimeoutExpired:
        print(f"{', '.join(names)}: FOUND no end after {limit:.0f} s", flush=True)
        return 1
    if arguments.atheris:
        return done.returncode
    lines = done.stdout.decode().splitlines()
    for line in lines:
        _tell(json.loads(line))
    if done.returncode or len(lines) != len(names):
        print(f"{names[len(lines) :]}: FOUND a crash, exit status {done.returncode}", flush=True)
        return 1
    return sum(len(json.loads(line)["finds"]) for line in lines)


def _tell(result: dict[str, Any]) -> None:
    target, finds = result["target"], result["finds"]
    for find in finds:
        print(f"{target} input {find['number']}: FOUND {find['what']}")
    print(
        f"{target}: {result['runs']} inputs, {result['accepted']} accepted, {result['refused']} refused with a "
        f"StudioError, {len(finds)} finds; slowest {result['slowest_ms']:.0f} ms, peak memory "
        f"+{result['grown'] >> 20} MiB, {result['seconds']:.0f} s",
        flush=True,
    )


def inside(names: list[str], arguments: argparse.Namespace) -> int:
    """The loop over inputs; one line of JSON for each target."""
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as temporary:
        for name in names:
            folder = Path(temporary) / name
            folder.mkdir()
            for data in targets.seeds(name):  # warm: imports and caches are no growth
                examine(name, data, folder)
        _bound_memory()
        for name in names:
            if arguments.atheris:
                return _by_coverage(name, Path(temporary) / name, arguments.runs)
            print(json.dumps(_run(name, Path(temporary) / name, arguments)), flush=True)
    return 0


def _run(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    corpus = targets.seeds(name)
    counts, finds, slowest = {"accepted": 0, "refused": 0}, [], 0.0
    before, begun = _peak(), time.monotonic()
    numbers = range(arguments.runs) if arguments.only is None else [arguments.only]
    for number in numbers:
        data = targets.made(name, arguments.seed, number, corpus)
        started = time.perf_counter()
        what = examine(name, data, folder, show=arguments.only is not None)
        slowest = max(slowest, time.perf_counter() - started)
        if what in counts:
            counts[what] += 1
        elif len(finds) < MOST_FINDS:
            finds.append({"number": number, "what": what})
            if arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{name}-{arguments.seed}-{number}").write_bytes(data)
    grown = _peak() - before
    if grown > SMALL:
        finds.append({"number": -1, "what": f"peak memory grew by {grown} bytes"})
    seconds = time.monotonic() - begun
    return {"target": name, "runs": len(numbers), **counts, "finds": finds, "slowest_ms": slowest * 1000,
            "grown": grown, "seconds": seconds}  # fmt: skip


def examine(name: str, data: bytes, folder: Path, show: bool = False) -> str:
    """``accepted``, ``refused``, or what is wrong with the way in which the input was received."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_AN_INPUT)
    try:
        targets.TARGETS[name].read(folder, data)
    except StudioError as error:
        said = str(error)
        if not said.isprintable() or not said or len(said) > 2000:
            return f"a text that is no printable line of at most 2000 characters: {said[:300]!r}"
        return "refused"
    except Hang:
        return f"more than {SECONDS_AN_INPUT} s"
    except BaseException as error:  # noqa: BLE001 - to report every other exception is what this is for
        if show:
            traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "accepted"


def _by_coverage(name: str, folder: Path, runs: int) -> int:
    def one(data: bytes) -> None:
        what = examine(name, data, folder, show=True)
        if what not in ("accepted", "refused"):
            raise RuntimeError(what)

    start = folder / "corpus"
    start.mkdir()
    for number, data in enumerate(targets.seeds(name)):
        (start / str(number)).write_bytes(data)
    atheris.Setup([sys.argv[0], f"-runs={runs}", str(start)], one)
    atheris.Fuzz()
    return 0


def _too_long(signal_number: int, frame: FrameType | None) -> None:
    raise Hang


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if os.path.exists("/proc/self/statm") else None
    if pages is not None:
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main())
