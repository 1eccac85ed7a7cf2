"""Speed of weight rounding on one CPU thread, side by side with comfy-kitchen's eager kernels.

    python benchmarks/rounding_speed.py [--runs 7] [--json FILE]

Every run times each method once, in turn, on the same 3072×3072 FP8 weight with a scale and on its BF16 upcast; the
table shows medians of CPU time in milliseconds per million weights, and run by run the ratios to comfy-kitchen and to
nearest rounding of the same source. Asked are at most twice nearest's time for four-over-six, four times for weighted,
and a second per million weights for GPTQ. The safeguard is what a conversion adds where input rows were kept: nearest
rounding, and the outputs of both on them.
Nearest rounding must give comfy-kitchen's bytes, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from comfy_kitchen.tensor import TensorCoreNVFP4Layout

from nvfp4_studio.calibration import Collector, LayerStatistics
from nvfp4_studio.converters.formats import Encoding, Weight, nvfp4
from nvfp4_studio.converters.formats.weight import upcast
from nvfp4_studio.converters.held_out import HeldOut, outputs
from nvfp4_studio.converters.rounding import METHODS

SIDE = 3072
KITCHEN = "comfy-kitchen eager (fp8 → fp32 → nvfp4)"


def statistics_of_inputs() -> LayerStatistics:
    """What roundings that look at inputs need, of 4096 random rows."""
    layer = torch.nn.ModuleDict({"layer": torch.nn.Linear(SIDE, SIDE)})
    collector = Collector(layer, detail="curvature")
    with collector.observing(0.5):
        layer["layer"](torch.randn(4096, SIDE, generator=torch.Generator().manual_seed(1)))
    return collector.finish(images=1).layers["layer"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    weight = (torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 20).to(torch.float8_e4m3fn)
    scale = torch.tensor(0.0013)
    plain = upcast(weight, scale, "benchmark").bfloat16()
    source, plain_source = Weight("benchmark", weight, scale), Weight("benchmark", plain)
    candidates: dict[str, Callable[[], object]] = {
        KITCHEN: lambda: TensorCoreNVFP4Layout.quantize(upcast(weight, scale, "benchmark"))
    }
    seen = statistics_of_inputs()
    for name, method in METHODS.items():
        encoding = Encoding(method, statistics=None if method.CANDIDATES else seen)
        candidates[f"{name}, FP8 source"] = lambda encoding=encoding: nvfp4.encode(source, encoding)
        candidates[f"{name}, BF16 source"] = lambda encoding=encoding: nvfp4.encode(plain_source, encoding)
    rows_kept = HeldOut.of(seen, None)
    assert rows_kept is not None
    for stored, layer in (("FP8", source), ("BF16", plain_source)):
        tensors = nvfp4.encode(layer, Encoding(METHODS["nearest"]))

        def safeguard(layer: Weight = layer, tensors: dict[str, torch.Tensor] = tensors) -> None:
            nvfp4.encode(layer, Encoding(METHODS["nearest"]))
            outputs(layer, tensors, rows_kept)
            outputs(layer, tensors, rows_kept)

        candidates[f"safeguard, {stored} source"] = safeguard
    packed, _ = TensorCoreNVFP4Layout.quantize(upcast(weight, scale, "benchmark"))
    if not torch.equal(packed, nvfp4.encode(source, Encoding(METHODS["nearest"]))["weight"]):
        print("nearest differs from comfy-kitchen's bytes", file=sys.stderr)
        return 1
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(options.runs + 1):
        for name, work in candidates.items():
            started = time.process_time()
            work()
            if run:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    rows = []
    for name, times in seconds.items():
        plainest = seconds.get(f"nearest, {name.rpartition(', ')[2]}", times)
        rows.append(
            {
                "method": name,
                "ms_per_million_weights": statistics.median(times) * 1e9 / SIDE**2,
                "times_faster": statistics.median(a / b for a, b in zip(seconds[KITCHEN], times, strict=True)),
                "times_nearest": statistics.median(a / b for a, b in zip(times, plainest, strict=True)),
            }
        )
    print(f"medians of {options.runs} runs in turn, one thread, torch {torch.__version__}\n")
    print("| method | ms per million weights | times comfy-kitchen's speed | times nearest's time |\n|---|---|---|---|")
    for row in rows:
        figures = (f"{row[key]:.1f}" for key in ("ms_per_million_weights", "times_faster", "times_nearest"))
        print(f"| {row['method']} | {' | '.join(figures)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
