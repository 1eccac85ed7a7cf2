"""What is measured of one way of calling a converter."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .peer import Command, Installed, Peer
from .running import Run, run

SCRIPTS = Path(__file__).parent / "scripts"
TARGET = "converted_nvfp4.safetensors"
KILLS = {
    "half-way": lambda contender, seconds, named: seconds > 0.5 * contender.median_seconds(),
    "when the target's name appears": lambda contender, seconds, named: named,
}
"""Moments of SIGKILL, from the seconds so far and whether there is a target yet."""


@dataclass
class Bench:
    """What all runs share: sources, an empty folder, threads per process, seconds until a run is given up."""

    sources: Path
    folder: Path
    threads: int
    timeout: float

    @property
    def bf16(self) -> Path:
        return self.sources / "bf16.safetensors"

    @property
    def scaled_fp8(self) -> Path:
        return self.sources / "scaled-fp8.safetensors"


@dataclass
class ComfyUI:
    """A ComfyUI to load files with, and the output that its copy of the BF16 source computes."""

    path: Path
    python: Path
    reference: Path | None = None

    def load(self, bench: Bench, file: Path, output: Path) -> dict[str, Any]:
        """What ComfyUI makes of a file; ``failed`` is its last line where it does not load."""
        command = [str(self.python), str(SCRIPTS / "in_comfyui.py"), str(self.path), str(file), str(output)]
        command += [str(self.reference)] if self.reference else []
        done = run(command, None, bench.threads, bench.folder / "comfyui.log", bench.timeout)
        if done.status or not done.last_words().startswith("RESULT "):
            return {"failed": shortened(done.last_words(), bench)}
        return json.loads(done.last_words().removeprefix("RESULT "))


@dataclass
class Contender:
    """One converter, called in one way, and what has been measured of it."""

    peer: Peer
    variant: str
    command: Command
    installed: Installed
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    size: int = 0
    digest: str = ""
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.peer.name} {self.variant}"

    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    def convert(
        self,
        bench: Bench,
        source: Path,
        kill_when: Callable[[float, bool], bool] = lambda seconds, named: False,
    ) -> tuple[Run, Path]:
        """One conversion into an emptied folder; the run and the target, which may be missing."""
        folder = bench.folder / "out"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target = folder / TARGET
        clone = self.installed.clone
        done = run(
            self.command(self.installed, source, target),
            clone / self.peer.sources if clone else None,
            bench.threads,
            bench.folder / "run.log",
            bench.timeout,
            lambda seconds: kill_when(seconds, target.exists()),
        )
        return done, target

    def warm_up(self, bench: Bench, comfyui: ComfyUI | None) -> bool:
        """The first conversion, not timed: is there a good file at all? Weight and output error of it."""
        done, target = self.convert(bench, bench.bf16)
        if done.status or not target.exists():
            self.found["failed"] = shortened(done.last_words(), bench)
            return False
        self.size, self.digest = target.stat().st_size, data_digest(target)
        self.found["output_bytes"] = self.size
        self.found["weights"] = weight_error(bench.bf16, target)
        if comfyui is not None:
            self.found["comfyui"] = comfyui.load(bench, target, bench.folder / "output.safetensors")
        return True

    def time(self, bench: Bench) -> None:
        """One timed conversion."""
        done, _ = self.convert(bench, bench.bf16)
        if done.status:
            raise RuntimeError(f"{self.label} worked before and failed now: {done.last_words()}")
        self.seconds.append(done.seconds)
        self.cpu_seconds.append(done.cpu_seconds)
        self.peak_mb.append(done.peak_mb)

    def kill(self, bench: Bench) -> None:
        """SIGKILL at both moments: is the target absent, complete or broken afterwards?"""
        self.found["killed"] = {}
        for moment, reached in KILLS.items():
            done, target = self.convert(
                bench, bench.bf16, lambda seconds, named, reached=reached: reached(self, seconds, named)
            )
            if done.status >= 0:
                state = "ended first"
            elif not target.exists():
                state = "absent"
            else:
                state = "complete" if self.is_complete(bench, target) else "broken"
            self.found["killed"][moment] = state

    def is_complete(self, bench: Bench, target: Path) -> bool:
        """The same tensors as of the first conversion; biases may differ, where a converter draws random numbers."""
        if target.stat().st_size != self.size:
            return False
        return data_digest(target) == self.digest or weight_error(bench.bf16, target) == self.found["weights"]

    def convert_scaled_fp8(self, bench: Bench, comfyui: ComfyUI | None) -> None:
        """Convert the scaled-FP8 source: are the weights those that the source means, does ComfyUI agree?"""
        done, target = self.convert(bench, bench.scaled_fp8)
        if done.status or not target.exists():
            self.found["scaled_fp8"] = {"failed": shortened(done.last_words(), bench)}
        else:
            self.found["scaled_fp8"] = weight_error(bench.scaled_fp8, target)
            if comfyui is not None:
                loaded = comfyui.load(bench, target, bench.folder / "output.safetensors")
                self.found["scaled_fp8"]["comfyui"] = loaded

    def to_json(self, ours: Contender) -> dict[str, Any]:
        """Everything measured; ``times_ours`` compares run by run."""
        result = {"variant": self.variant, **self.found}
        if self.seconds:
            result |= {
                "seconds": self.seconds,
                "median_seconds": self.median_seconds(),
                "times_ours": median_ratio(self.seconds, ours.seconds),
                "cpu_seconds": self.cpu_seconds,
                "cpu_times_ours": median_ratio(self.cpu_seconds, ours.cpu_seconds),
                "peak_mb": statistics.median(self.peak_mb),
            }
        return result


def median_ratio(mine: list[float], others: list[float]) -> float:
    """Median of the ratios of runs made in the same round."""
    return statistics.median(one / other for one, other in zip(mine, others, strict=True))


def weight_error(source: Path, target: Path) -> dict[str, Any]:
    """The answer of `weight_error.py`, or why it could not decode the file."""
    command = [sys.executable, str(SCRIPTS / "weight_error.py"), str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    return {"not_decoded": done.stderr.strip().splitlines()[-1]} if done.returncode else json.loads(done.stdout)


def data_digest(path: Path) -> str:
    """SHA-256 of a safetensors file's tensors, without the header, which may hold a date."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def shortened(words: str, bench: Bench, limit: int = 160) -> str:
    """A program's last words without folders of this machine."""
    for folder in (bench.folder, bench.sources):
        words = words.replace(f"{folder}/", "")
    return words if len(words) <= limit else f"{words[:limit]}…"
