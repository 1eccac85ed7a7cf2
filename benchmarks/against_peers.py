"""This converter beside the others, in one run: speed, memory, error, and what is left when things go wrong.

    python benchmarks/against_peers.py [--runs 5] [--threads 1] [--small] [--only NAME ...]
    python benchmarks/against_peers.py --write-readme

Each converter is cloned from GitHub at the commit named in `peers/` (or from `--clone NAME=PATH`) and gets a
virtual environment of its own below `--envs`, with the same torch and comfy-kitchen as the interpreter that runs
this; one that cannot be installed or fails is listed with the reason. All convert the same generated source, on
the same number of processors, without a GPU; the timed runs alternate, because a machine's speed drifts. ComfyUI is looked for in
COMFYUI_PATH, then in ~/comfy/ComfyUI. Needs Linux or macOS, git, 5 GB of disk and about half an hour.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import NOT_RUN, OURS, PEERS
from peers.comparing import SCRIPTS, Bench, ComfyUI, Contender
from peers.installing import NotInstalled, install, version_of
from peers.peer import Installed
from peers.table import table, write_into

import nvfp4_studio

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "peers.json"
WIDTH, SMALL_WIDTH = 3072, 512
MATRICES_IN_A_BLOCK = 36
SAME_FOR_ALL = ("torch", "comfy-kitchen")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nvfp4-studio-peers"
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each converter (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="processors and threads of each process (default 1)")
    parser.add_argument("--small", action="store_true", help="a source of 9 million weights, to try the command")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these converters, beside our own")
    parser.add_argument(
        "--clone", action="append", default=[], metavar="NAME=PATH", help="clone to take instead of GitHub"
    )
    parser.add_argument("--envs", type=Path, default=cache, help=f"where environments are kept (default {cache})")
    parser.add_argument("--folder", type=Path, help="where sources and outputs go (default: a temporary folder)")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds until a run is given up (default 1200)")
    parser.add_argument("--json", type=Path, help="result (default: benchmarks/results/peers.json; none with --small)")
    parser.add_argument(
        "--write-readme", action="store_true", help="run nothing, put the last result into both READMEs"
    )
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="+",
        default=[ROOT / "README.md", ROOT / "benchmarks" / "README.md"],
        help="the pages to write into: each gets the table, the summary or both, where its markers are",
    )
    return parser.parse_args()


def find_comfyui() -> ComfyUI | None:
    """COMFYUI_PATH or comfy-cli's default workspace, with COMFYUI_PYTHON or the environment inside it."""
    path = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    inside = [path / name / "bin" / "python" for name in (".venv", "venv")]
    python = Path(os.environ.get("COMFYUI_PYTHON") or next((p for p in inside if p.exists()), sys.executable))
    return ComfyUI(path, python) if (path / "main.py").is_file() else None


def comfyui_version(comfyui: ComfyUI | None) -> str | None:
    if comfyui is None:
        return None
    text = (comfyui.path / "comfyui_version.py").read_text(encoding="utf-8")
    return text.partition("__version__ = ")[2].strip().strip("\"'")


def our_commit() -> str:
    """The commit that is measured, with a mark when files differ from it; empty outside a clone."""
    here = Path(nvfp4_studio.__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def set_up(options: argparse.Namespace, scratch: Path) -> tuple[list[Contender], list[dict[str, Any]]]:
    """Install everything: the contenders, and an entry of the result for each converter."""
    clones = dict(entry.split("=", 1) for entry in options.clone)
    python = Path(sys.executable)
    pins = {name: (version_of(python, name) or "").partition("+")[0] for name in SAME_FOR_ALL}
    contenders, entries = [], []
    for peer in (OURS, *(peer for peer in PEERS if not options.only or peer.name in options.only)):
        entry: dict[str, Any] = {
            "name": peer.name,
            "repository": peer.repository,
            "commit": peer.commit or our_commit(),
            "note": peer.note,
        }
        entries.append(entry)
        print(f"setting up {peer.name}", flush=True)
        try:
            installed = (
                Installed(python, None, scratch)
                if peer is OURS
                else install(peer, options.envs, clones.get(peer.name), pins)
            )
        except NotInstalled as reason:
            entry["skipped"] = str(reason)
            print(f"  skipped: {reason}", flush=True)
            continue
        entry["packages"] = {name: version_of(installed.python, name) for name in (*SAME_FOR_ALL, "safetensors")}
        contenders += [Contender(peer, name, command, installed) for name, command in peer.variants.items()]
    return contenders, entries


def measure(contenders: list[Contender], bench: Bench, comfyui: ComfyUI | None, runs: int) -> None:
    """Fill the contenders: one conversion that is judged, timed runs in turn, kills, the scaled-FP8 source."""
    if comfyui is not None:
        reference = bench.sources / "output.safetensors"
        failed = comfyui.load(bench, bench.bf16, reference).get("failed")
        if failed:
            raise SystemExit(f"ComfyUI does not load the BF16 source: {failed}")
        comfyui.reference = reference
    able = []
    for contender in contenders:
        if contender.warm_up(bench, comfyui):
            able.append(contender)
        print(f"{contender.label}: {contender.found}", flush=True)
    for number in range(runs):
        for contender in able[number % len(able) :] + able[: number % len(able)]:
            os.sync()
            contender.time(bench)
            print(f"run {number + 1}, {contender.label}: {contender.seconds[-1]:.1f} s", flush=True)
    for contender in able:
        if contender.variant == next(iter(contender.peer.variants)):
            contender.kill(bench)
            contender.convert_scaled_fp8(bench, comfyui)
            print(f"{contender.label}: {contender.found['killed']}, {contender.found['scaled_fp8']}", flush=True)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison as data."""
    width = SMALL_WIDTH if options.small else WIDTH
    # The small source is narrower than the Qwen-Image that ComfyUI builds.
    comfyui = None if options.small else find_comfyui()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bench = Bench(Path(name, "sources"), Path(name, "work"), options.threads, options.timeout)
        bench.sources.mkdir()
        bench.folder.mkdir()
        contenders, entries = set_up(options, bench.folder)
        make = [sys.executable, str(SCRIPTS / "make_sources.py"), str(bench.sources)]
        subprocess.run([*make, "--width", str(width)], check=True)
        measure(contenders, bench, comfyui, options.runs)
        size = bench.bf16.stat().st_size
    for entry in entries:
        mine = [contender for contender in contenders if contender.peer.name == entry["name"]]
        if mine:
            entry["variants"] = [contender.to_json(contenders[0]) for contender in mine]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "system": platform.platform(terse=True),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "threads": options.threads,
            "torch": entries[0]["packages"]["torch"],
        },
        "source": {"weights": MATRICES_IN_A_BLOCK * width**2, "bytes": size},
        "comfyui": comfyui_version(comfyui),
        "runs": options.runs,
        "converters": entries,
        "not_run": NOT_RUN,
    }


def main() -> int:
    options = arguments()
    target = options.json or (None if options.small else RESULT)
    if options.write_readme:
        last = json.loads((target or RESULT).read_text(encoding="utf-8"))
        for page in options.readme:
            write_into(page, last)
        return 0
    result = compare(options)
    print(f"\n{table(result)}")
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
