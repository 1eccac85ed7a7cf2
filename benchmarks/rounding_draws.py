"""What a rounding method is worth beyond the luck of one model: the same models rounded many times over.

    python benchmarks/rounding_draws.py [--draws 6] [--seeds 3] [--models flux sd3] [--gain] [--json FILE]

Every draw puts other channels side by side in the blocks of 16 (`quality/redrawn.py`), rounds the layers that the
default recipe makes NVFP4 by every method, and compares pictures with the FP8 source's, as `picture_quality.py` does.
Activations are quantized as they are. Intervals are over draws. One thread; about 10 minutes of CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from picture_quality import CALIBRATION_SEEDS, FIRST_SEED, MODES, REDRAWN, about
from quality.pictures import calibrate, draw_with, mean_and_interval, psnr_by_seed
from quality.redrawn import draw_order, redrawn
from torch import Tensor

from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.rounding import METHODS
from nvfp4_studio.demo.runtime import Linear, load_model
from nvfp4_studio.demo.train import CHECKPOINTS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=6, help="how often each model is rounded (default 6)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds for each class and draw (default 3)")
    parser.add_argument("--models", nargs="+", choices=CHECKPOINTS, default=list(CHECKPOINTS))
    parser.add_argument("--roundings", nargs="+", choices=METHODS, default=list(METHODS), help="beside nearest")
    parser.add_argument("--gain", action="store_true", help="also with a constant gain in weight_scale_2")
    parser.add_argument("--json", type=Path, default=REDRAWN)
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """PSNR of every method and draw: by method and mode, a list over draws."""
    source, converted = CHECKPOINTS[name], folder / f"{name}.safetensors"
    calibration = calibrate(source, CALIBRATION_SEEDS, "curvature")
    convert(source, converted, Options(), calibration=calibration, device="cpu")
    models = {mode: load_model(converted, quantized) for mode, quantized in MODES.items()}
    layers = [
        layer
        for layer, module in models["quantized"].named_modules()
        if isinstance(module, Linear) and module.format == "nvfp4"
    ]
    original = load_model(source)
    weights: dict[str, Tensor] = {layer: original.get_submodule(layer).weight for layer in layers}
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    reference = draw_with(original, seeds)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    generator = torch.Generator().manual_seed(0)
    for number in range(options.draws):
        orders = {layer: draw_order(weight.shape[1], generator) for layer, weight in weights.items()}
        for rounding in dict.fromkeys(("nearest", *options.roundings)):
            rounded = {
                layer: redrawn(weight, rounding, calibration.layers[layer], orders[layer])
                for layer, weight in weights.items()
            }
            for gain in (False, True) if options.gain else (False,):
                label = f"{rounding} + gain" if gain else rounding
                for mode, model in models.items():
                    for layer, weight in weights.items():
                        factor = weight.square().sum() / (weight * rounded[layer]).sum() if gain else 1.0
                        model.get_submodule(layer).weight = rounded[layer] * factor
                    values = psnr_by_seed(reference, draw_with(model, seeds))
                    found[label][mode].append(round(statistics.fmean(values), 3))
            print(f"{name}, draw {number + 1}, {rounding}: {[found[label][mode][-1] for mode in MODES]}", flush=True)
    return {rounding: {mode: _summary(found, rounding, mode) for mode in MODES} for rounding in found}


def _summary(found: dict[str, dict[str, list[float]]], rounding: str, mode: str) -> dict[str, Any]:
    values = found[rounding][mode]
    summary: dict[str, Any] = {
        "psnr_db": round(statistics.fmean(values), 3),
        "deviation_db": round(statistics.stdev(values), 3),
    }
    if rounding != "nearest":
        over = [value - other for value, other in zip(values, found["nearest"][mode], strict=True)]
        mean, interval = mean_and_interval(over)
        summary |= {"over_nearest_db": round(mean, 3), "over_nearest_interval_db": round(interval, 3)}
    return summary | {"by_draw_db": values}


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    result = {**about(options.seeds), "draws": options.draws}
    with tempfile.TemporaryDirectory() as folder:
        result["models"] = {name: measure(name, options, Path(folder)) for name in options.models}
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
