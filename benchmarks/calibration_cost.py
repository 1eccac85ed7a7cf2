"""What calibration costs: time of a sampling with it over time without, for each level of detail.

    python benchmarks/calibration_cost.py [--runs 15] [--pictures 100] [--block-runs 5] [--tokens 1024] [--device cpu] [--json FILE]
    python benchmarks/calibration_cost.py --samplings 1000

Samplings with and without calibration alternate in one process; the table shows the median over runs of the
ratio of neighbours. Timed is everything between the first step and the statistics on the host. Two models: the
demo model (100 pictures in a batch, 20 steps) and one block of Qwen-Image's shape (3072 wide, 24 heads, picture
and text in one attention, random weights). On a CPU one thread runs and its CPU time counts, so that other
programs take no part, but for the caches that they share. A call is looked at in about 30 microseconds, which
shows where calls are very short: `--pictures 10` has the demo model's own batch.

`--samplings N` calibrates the demo model N times in a row into one file, as the node does, and shows resident
memory and file size on the way.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvfp4_studio.calibration import DETAILS, Collector, linear_layers, load, save, weight_samples
from nvfp4_studio.demo.run import SOURCE
from nvfp4_studio.demo.runtime import load_model
from nvfp4_studio.demo.sampling import sample

TARGETS = {"scales": 1.03, "channels": 1.10, "curvature": 1.60}
WIDTH, HEADS, TEXT = 3072, 24, 256
STEPS = 20
BLOCK_STEPS = 2


class Stream(nn.Module):
    """The Linear layers of one of the two streams of a block; Qwen-Image names them differently for each."""

    def __init__(self) -> None:
        super().__init__()
        self.mod = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH))

    def heads(self, x: Tensor) -> list[Tensor]:
        """q, k and v, [B, heads, T, 128] each."""
        return [linear(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in (self.to_q, self.to_k, self.to_v)]


class Block(nn.Module):
    """One block in the shape of Qwen-Image's 60: two streams that meet in one attention."""

    def __init__(self) -> None:
        super().__init__()
        self.txt, self.img = Stream(), Stream()

    def forward(self, img: Tensor, txt: Tensor, vector: Tensor) -> Tensor:
        values, gates, inner = {"txt": txt, "img": img}, {}, []
        for name, x in values.items():
            parts = getattr(self, name).mod(vector)[:, None].chunk(6, dim=-1)
            gates[name] = parts
            inner.append(getattr(self, name).heads(F.layer_norm(x, (WIDTH,)) * (1 + parts[1]) + parts[0]))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*inner, strict=True))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        for (name, x), seen in zip(values.items(), mixed.split((txt.shape[1], img.shape[1]), dim=1), strict=True):
            stream, parts = getattr(self, name), gates[name]
            x = x + parts[2] * stream.to_out(seen)
            values[name] = x + parts[5] * stream.mlp(F.layer_norm(x, (WIDTH,)) * (1 + parts[4]) + parts[3])
        return values["img"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="of the demo model")
    parser.add_argument("--pictures", type=int, default=100, help="in a batch of the demo model")
    parser.add_argument("--block-runs", type=int, default=5, help="of the block; 0 leaves it out")
    parser.add_argument("--tokens", type=int, default=1024, help="of the picture in the block")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--samplings", type=int, default=0, help="calibrate so often in a row instead")
    parser.add_argument("--detail", choices=DETAILS, default="scales", help="for --samplings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    if options.samplings:
        rows = in_a_row(options.samplings, options.detail)
        met = True
    else:
        demo = demo_sampling(device, options.pictures)
        rows = costs(demo, f"demo model, {options.pictures} pictures", options.runs, device)
        if options.block_runs:
            block = block_sampling(device, options.tokens)
            rows += costs(block, f"Qwen-Image block, {options.tokens} + {TEXT} tokens", options.block_runs, device)
        met = all(row["ratio"] <= row["target"] for row in rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


Sampling = Callable[[str | None], None]


def demo_sampling(device: torch.device, pictures: int) -> Sampling:
    """Some pictures of the demo model in one batch; the argument is the level of detail, None for none."""
    model = load_model(SOURCE).to(device).eval()
    labels = [number % 10 for number in range(pictures)]
    samples = weight_samples(linear_layers(model)[0])  # as the node does, once for a model

    def run(detail: str | None) -> None:
        collector = Collector(model, detail, samples) if detail else None
        sample(model, labels, labels, STEPS, collector.observing if collector else None)
        if collector:
            collector.finish(images=pictures)

    return run


def block_sampling(device: torch.device, tokens: int) -> Sampling:
    """Two evaluations of one block, in bfloat16 on a GPU and float32 on a CPU, which computes faster in it."""
    torch.manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    block = Block().to(device, dtype).eval()
    samples = weight_samples(linear_layers(block)[0])
    img, txt, vector = (torch.randn(1, *shape, WIDTH).to(device, dtype) for shape in ((tokens,), (TEXT,), ()))

    def run(detail: str | None) -> None:
        collector = Collector(block, detail, samples) if detail else None
        with torch.inference_mode():
            for step in range(BLOCK_STEPS):
                if collector:
                    with collector.observing(1 - step / BLOCK_STEPS):
                        block(img, txt, vector)
                else:
                    block(img, txt, vector)
        if collector:
            collector.finish(images=1)

    return run


def costs(run: Sampling, what: str, runs: int, device: torch.device) -> list[dict[str, Any]]:
    """One row for each level of detail."""
    rows = []
    print(f"\n{what}, {device.type}, medians of {runs} runs\n\n| detail | without, s | with, s | ratio | at most |")
    print("|---|---|---|---|---|")
    for detail in DETAILS:
        run(None), run(detail)  # warm
        pairs = [in_turn(run, detail, device, number) for number in range(runs)]
        without, with_it = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append({"model": what, "device": device.type, "detail": detail, "without_s": without, "with_s": with_it,
                     "ratio": ratio, "target": TARGETS[detail]})  # fmt: skip
        print(f"| {detail} | {without:.3f} | {with_it:.3f} | {ratio:.3f} | {TARGETS[detail]:.2f} |", flush=True)
    return rows


def in_turn(run: Sampling, detail: str, device: torch.device, number: int) -> tuple[float, float]:
    """Seconds without and with calibration; every other time the other way round, as the machine's speed drifts."""
    if number % 2:
        with_it = timed(run, detail, device)
        return timed(run, None, device), with_it
    return timed(run, None, device), timed(run, detail, device)


def timed(run: Sampling, detail: str | None, device: torch.device) -> float:
    """Seconds of one sampling."""
    gc.collect()
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    run(detail)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def in_a_row(samplings: int, detail: str) -> list[dict[str, Any]]:
    """Calibrate the demo model again and again into one file; short samplings, so that the count is what grows."""
    model = load_model(SOURCE).eval()
    rows = []
    print("| samplings | resident MB | file bytes |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.safetensors"
        for number in range(1, samplings + 1):
            collector = Collector(model, detail)
            sample(model, [number % 10], [number], 2, collector.observing)
            seen = collector.finish(images=1)
            save(load(path).merged(seen) if path.exists() else seen, path)
            if number in (1, 10) or number % max(1, samplings // 10) == 0:
                rows.append({"samplings": number, "resident_bytes": resident(), "file_bytes": path.stat().st_size})
                print(f"| {number} | {rows[-1]['resident_bytes'] / 1e6:.1f} | {rows[-1]['file_bytes']} |", flush=True)
    return rows


def resident() -> int:
    """Bytes of this process in memory now, or the most so far where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
