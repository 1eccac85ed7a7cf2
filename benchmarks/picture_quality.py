"""How close a converted model's pictures are to the source's, with every rounding method, on two trained models.

    python benchmarks/picture_quality.py [--seeds 40] [--models flux sd3] [--roundings NAME ...] [--gain] [--measured] [--add]
    python benchmarks/picture_quality.py --write-readme         (with what rounding_draws.py measured beside it)

The models are the demo's digits in Flux.1's layout and a second one in SD3.5's (`python -m nvfp4_studio.demo.train
--layout sd3` makes it). Each is calibrated with seeds that are not measured, converted with its family's default recipe and
each rounding, and sampled as stock ComfyUI would, with quantized activations and with quantized weights alone. `--gain` adds
each method that needs no calibration with a constant gain per layer that follows from the weights; `--measured` adds what
`convert --pre-quant search` and `--gain` make of some methods. `--add` keeps the last result's rows whose files still have the
same tensors, and measures the others.
One thread; about 20 minutes of CPU time, with everything 60.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import platform
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from against_peers import our_commit
from quality.gain import with_gain
from quality.pictures import calibrate, draw, mean_and_interval, psnr_by_seed
from quality.table import BEGIN, END, table
from quality.ways import Way, ways
from readme import write_between
from torch import Tensor

from nvfp4_studio.calibration import DETAILS
from nvfp4_studio.converters import Options, Report, convert
from nvfp4_studio.converters.rounding import AUTO, METHODS
from nvfp4_studio.demo.conditioning import CLASSES
from nvfp4_studio.demo.runtime import load_model
from nvfp4_studio.demo.train import CHECKPOINTS

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "picture_quality.json"
REDRAWN = RESULT.with_name("rounding_draws.json")
SEEDS, FIRST_SEED = 40, 10_000
CALIBRATION_SEEDS = range(4)
MODES = {"quantized": True, "emulated": False}
SAME_TO_ADD = ("seeds", "classes", "calibration", "versions")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds for each class (default {SEEDS})")
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--roundings", nargs="+", choices=METHODS, default=list(METHODS), help="beside nearest")
    parser.add_argument("--recipe", help="recipe of all conversions (default: that of the model's family)")
    parser.add_argument("--gain", action="store_true", help="also with a constant gain that follows from the weights")
    parser.add_argument(
        "--measured",
        action="store_true",
        help="also with a searched pre_quant_scale, and with a gain measured on outputs",
    )
    parser.add_argument(
        "--add", action="store_true", help="keep rows of the last result whose files have the same tensors"
    )
    parser.add_argument("--json", type=Path, help=f"where the result goes (default: {RESULT.name} for a full run)")
    parser.add_argument(
        "--write-readme", action="store_true", help="run nothing, put the last result into benchmarks/README.md"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "benchmarks" / "README.md", help="the page to write into")
    return parser.parse_args()


class Bench:
    """One model, its calibrations, and the source's pictures that all others are compared with."""

    def __init__(self, name: str, folder: Path, seeds: range, recipe: str | None) -> None:
        self.source = CHECKPOINTS[name]
        self.folder = folder
        self.seeds = seeds
        self.recipe = recipe
        self.calibrations = {detail: calibrate(self.source, CALIBRATION_SEEDS, detail) for detail in DETAILS}
        self.nearest: dict[str, list[float]] = {}

    @functools.cached_property
    def reference(self) -> Tensor:
        return draw(self.source, self.seeds, True)

    def convert(self, way: Way, detail: str) -> tuple[Path, Report]:
        target = self.folder / "converted.safetensors"
        options = Options(recipe=self.recipe, **way.options())
        calibration = self.calibrations[detail]
        return target, convert(self.source, target, options, calibration=calibration, device="cpu", overwrite=True)

    def entry(self, way: Way, kept: dict[str, Any]) -> dict[str, Any]:
        """One row of the result: the kept one where the converted file has the very tensors that it was measured with."""
        path, report = self.convert(way, way.needs)
        found: dict[str, Any] = {"needs": way.needs, "weights_db": round(report.summary["mean_sqnr_db"], 3)}
        if way.gain:
            converted, path = path, self.folder / "gain.safetensors"
            found["mean_gain"] = round(with_gain(self.source, converted, path), 5)
        if way.pre_quant:
            found["layers_with_scale"] = sum(layer.pre_quant_exponent is not None for layer in report.plan.layers)
        found["tensors_sha256"] = tensors_digest(path)
        if kept.get("tensors_sha256") == found["tensors_sha256"]:
            return kept
        for mode, quantized in MODES.items():
            found[mode] = self.distance(mode, draw(path, self.seeds, quantized))
        return found

    def distance(self, mode: str, pictures: Tensor) -> dict[str, Any]:
        """PSNR to the source's pictures, and over nearest's, each with its interval."""
        values = psnr_by_seed(self.reference, pictures)
        mean, interval = mean_and_interval(values)
        found = {"psnr_db": round(mean, 3), "interval_db": round(interval, 3)}
        if self.nearest:
            over = [value - other for value, other in zip(values, self.nearest[mode], strict=True)]
            mean, interval = mean_and_interval(over)
            found |= {"over_nearest_db": round(mean, 3), "over_nearest_interval_db": round(interval, 3)}
        return found | {"by_seed_db": [round(value, 3) for value in values]}

    def auto(self) -> tuple[dict[str, dict[str, int]], Report]:
        """For each level of detail, how many layers get which method by themselves; and the last of these conversions."""
        found = {}
        for detail in self.calibrations:
            _, report = self.convert(Way(AUTO), detail)
            found[detail] = dict(Counter(layer.rounding for layer in report.plan.layers if layer.rounding))
        return found, report


def measure(name: str, folder: Path, options: argparse.Namespace, kept: dict[str, Any]) -> dict[str, Any]:
    """All rows of one model, those that are kept among them."""
    bench = Bench(name, folder, range(FIRST_SEED, FIRST_SEED + options.seeds), options.recipe)
    roundings: dict[str, Any] = {}
    for way in ways(options.roundings, options.gain, options.measured):
        row = roundings[way.label] = bench.entry(way, kept.get(way.label, {}))
        if way == Way("nearest"):
            bench.nearest = {mode: row[mode]["by_seed_db"] for mode in MODES}
            kept = kept if row is kept.get(way.label) else {}  # all others are told over nearest
        told = {mode: f"{row[mode]['psnr_db']:.2f}" for mode in MODES}
        print(f"{name}, {way.label}: {told}{' (kept)' if row is kept.get(way.label) else ''}", flush=True)
    auto, report = bench.auto()
    return {
        "parameters": sum(parameter.numel() for parameter in weights_of(name)),
        "recipe": report.plan.recipe,
        "nvfp4_layers": report.summary["nvfp4_layers"],
        "fp8_layers": report.summary["fp8_layers"],
        "roundings": roundings,
        "auto": auto,
    }


def tensors_digest(path: Path) -> str:
    """SHA-256, hexadecimal, of what stands behind a safetensors file's header, which tells of versions and names."""
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def weights_of(name: str) -> list[Tensor]:
    """Parameters and weights of the source."""
    model = load_model(CHECKPOINTS[name])
    return [*model.parameters(), *model.buffers()]


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The whole result as data."""
    result, kept = about(options.seeds), {}
    if options.add:
        last = json.loads((options.json or RESULT).read_text("utf-8"))
        differing = [key for key in SAME_TO_ADD if _without_ours(last[key]) != _without_ours(result[key])]
        if differing:
            sys.exit(f"The last result differs in {', '.join(differing)}; run without --add.")
        kept = {name: model["roundings"] for name, model in last["models"].items()}
    with tempfile.TemporaryDirectory() as folder:
        result["models"] = {name: measure(name, Path(folder), options, kept.get(name, {})) for name in options.models}
    return result


def _without_ours(about: Any) -> Any:
    """Our own commit may be another: each row is compared by its file's tensors."""
    return {key: value for key, value in about.items() if key != "nvfp4-studio"} if isinstance(about, dict) else about


def about(seeds: int) -> dict[str, Any]:
    """When, with what, and on how many pictures."""
    return {
        "date": datetime.date.today().isoformat(),
        "seeds": seeds,
        "classes": CLASSES,
        "calibration": {"pictures": len(CALIBRATION_SEEDS) * CLASSES},
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "comfy-kitchen")},
            "nvfp4-studio": our_commit(),
        },
    }


def main() -> int:
    options = arguments()
    if options.write_readme:
        result, redrawn = (json.loads(path.read_text("utf-8")) for path in (options.json or RESULT, REDRAWN))
        write_between(options.readme, BEGIN, END, table(result, redrawn))
        return 0
    torch.set_num_threads(1)
    full = options.seeds >= SEEDS and len(options.models) == len(CHECKPOINTS) and not options.recipe
    target = options.json or (RESULT if full and set(options.roundings) == set(METHODS) else None)
    result = compare(options)
    print(f"\n{table(result)}")
    if target:
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
