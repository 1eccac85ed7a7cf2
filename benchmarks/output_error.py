"""Output error of layers, every method of ours beside other converters' on the same layers and activations.

    python benchmarks/output_error.py [--models flux sd3] [--ours] [--clone NAME=PATH ...] [--json FILE]
    python benchmarks/output_error.py --write-readme

The layers are those that the default recipes make NVFP4 in the demo's two trained models, in bfloat16, and their inputs
those of real samplings. Ours and Model Optimizer's AWQ see inputs of some seeds, and all are judged by inputs of others.
Other converters run as they are, in virtual environments of their own below `--envs` (as for `against_peers.py`); one that
cannot be installed or fails is listed with the reason. One thread; 5 minutes, of which learned rounding takes most.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from against_peers import SAME_FOR_ALL, our_commit
from outputs import ours
from outputs.layers import layers_of
from outputs.others import Others
from outputs.table import BEGIN, END, OURS, table
from readme import write_between

from nvfp4_studio.demo.train import CHECKPOINTS

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "output_error.json"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nvfp4-studio-peers"
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--ours", action="store_true", help="our own methods only")
    parser.add_argument(
        "--clone", action="append", default=[], metavar="NAME=PATH", help="clone to take instead of GitHub"
    )
    parser.add_argument("--envs", type=Path, default=cache, help=f"where environments are kept (default {cache})")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds until a converter is given up")
    parser.add_argument("--json", type=Path, help=f"where the result goes (default: {RESULT.name} for a full run)")
    parser.add_argument(
        "--write-readme", action="store_true", help="run nothing, put the last result into benchmarks/README.md"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "benchmarks" / "README.md", help="the page to write into")
    return parser.parse_args()


def measure(model: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All ways on one model's layers."""
    layers = layers_of(model)
    entries = []
    for way in ours.ways():
        about = {"name": OURS, "version": "", "variant": way.label, "looks_at": way.needs}
        entries.append({**about, **ours.measure(layers, way)})
        print(model, entries[-1], flush=True)
    if not options.ours:
        pins = {name: version(name).partition("+")[0] for name in SAME_FOR_ALL}
        clones = dict(entry.split("=", 1) for entry in options.clone)
        entries += Others(options.envs, folder, clones, pins, options.timeout).measure(layers)
    return {
        "layers": len(layers),
        "weights": sum(layer.weight.numel() for layer in layers),
        "fresh_rows": len(layers[0].fresh),
        "ways": entries,
    }


def main() -> int:
    options = arguments()
    if options.write_readme:
        write_between(options.readme, BEGIN, END, table(json.loads((options.json or RESULT).read_text("utf-8"))))
        return 0
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in SAME_FOR_ALL},
            OURS: our_commit(),
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        result["models"] = {model: measure(model, options, Path(folder)) for model in options.models}
    result["fresh_rows"] = max(found["fresh_rows"] for found in result["models"].values())
    print(f"\n{table(result)}")
    full = not options.ours and len(options.models) == len(CHECKPOINTS)
    target = options.json or (RESULT if full else None)
    if target:
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
