"""What calibration costs: time of a sampling with it over time without, for each level of detail.

    python benchmarks/calibration_cost.py [--runs 3] [--pictures 400] [--block-runs 1] [--tokens 512] [--device cpu] [--json FILE]
    python benchmarks/calibration_cost.py --samplings 1000

Two models: the demo model (20 steps) and one block of Qwen-Image's shape (3072 wide, 24 heads, picture and text
in one attention, random weights). Two measurements, both in one process:

* by clock (CPU): the time from entering a layer's hook to leaving it, of putting the hooks on and taking them off,
  and of finishing (the statistics on the host), over the rest of the very same evaluations;
* by pairs: every evaluation is made twice in a row, with calibration and without, in changing order, and the median
  over pairs is taken, with its standard error. This holds whatever else calibration does to an evaluation, as to its
  caches, but on a machine that others share neighbours differ by 10 %, so that it takes hundreds of pairs.

On a CPU one thread runs and its CPU time counts, so that other programs take no part, but for the caches that
they share. A call costs one pass over its input and about 70 microseconds, since the model has driven our code
out of the caches. That shows where calls are short: the demo model is 256 wide, and `--pictures` says how many are
in a batch; 10 is its own, with 400 a call takes some 26 milliseconds. A real model's takes longer still.

`--samplings N` calibrates the demo model N times in a row into one file, as the node does, and shows resident
memory and file size on the way.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
WIDTH, HEADS, TEXT = 3072, 24, 128
STEPS = 20
BLOCK_STEPS = 10


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

    def forward(self, img: Tensor, level: Tensor, txt: Tensor, vector: Tensor) -> Tensor:
        """The noise level is in `vector` already."""
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
    parser.add_argument("--runs", type=int, default=3, help="samplings of the demo model, 20 pairs each")
    parser.add_argument("--pictures", type=int, nargs="+", default=[400], help="in a batch of the demo model")
    parser.add_argument(
        "--block-runs", type=int, default=1, help="samplings of the block, 10 pairs each; 0 leaves it out"
    )
    parser.add_argument("--tokens", type=int, default=512, help="of the picture in the block")
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
        rows = []
        for pictures in options.pictures:
            what = f"demo model, {pictures} pictures"
            rows += costs(demo_sampling(device, pictures), what, options.runs, device)
        if options.block_runs:
            what = f"Qwen-Image block, {options.tokens} + {TEXT} tokens"
            rows += costs(block_sampling(device, options.tokens), what, options.block_runs, device)
        met = all((row["by_clock"] or row["by_pairs"]) <= row["target"] for row in rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


class Pairs:
    """One sampling's evaluations of `model`, each made with calibration and without.

    seconds: (without, with) of each. inside: seconds of those with calibration that were spent in it.
    """

    def __init__(self, model: nn.Module, detail: str, samples: dict[str, Tensor], device: torch.device) -> None:
        self.model, self.device = model, device
        self.shift = getattr(model, "shift", 1.0)  # the demo's sampler asks its model
        self.collector = Collector(model, detail, samples)
        self.seconds: list[tuple[float, float]] = []
        self.inside = 0.0

    def __call__(self, x: Tensor, level: Tensor, *others: Tensor) -> Tensor:
        def plain() -> Tensor:
            return self.model(x, level, *others)

        def observed() -> Tensor:
            started = clock(self.device)
            with self.collector.observing(float(level.flatten()[0])):
                self.inside += clock(self.device) - started
                with self._around_hooks():
                    result = self.model(x, level, *others)
                started = clock(self.device)
            self.inside += clock(self.device) - started
            return result

        if len(self.seconds) % 2:
            with_it, result = timed(observed, self.device)
            without, _ = timed(plain, self.device)
        else:
            without, result = timed(plain, self.device)
            with_it, _ = timed(observed, self.device)
        self.seconds.append((without, with_it))
        return result

    @contextmanager
    def _around_hooks(self) -> Iterator[None]:
        """Two more hooks on each layer, before all others and behind them, which tell the time."""
        started = 0.0

        def first(module: nn.Module, args: Any) -> None:
            nonlocal started
            started = clock(self.device)

        def last(module: nn.Module, args: Any) -> None:
            self.inside += clock(self.device) - started

        with ExitStack() as added:
            for layer in linear_layers(self.model)[0].values():
                added.callback(layer.register_forward_pre_hook(first, prepend=True).remove)
                added.callback(layer.register_forward_pre_hook(last).remove)
            yield

    def finish(self, images: int) -> Pairs:
        """Wait until the statistics are on the host."""
        self.inside += timed(lambda: self.collector.finish(images), self.device)[0]
        return self


Sampling = Callable[[str], Pairs]
"""Level of detail -> what its evaluations took."""


def demo_sampling(device: torch.device, pictures: int) -> Sampling:
    """Some pictures of the demo model in one batch."""
    model = load_model(SOURCE).to(device).eval()
    labels = [number % 10 for number in range(pictures)]
    samples = weight_samples(linear_layers(model)[0])  # as the node does, once for a model

    def run(detail: str) -> Pairs:
        pairs = Pairs(model, detail, samples, device)
        sample(pairs, labels, labels, STEPS)
        return pairs.finish(pictures)

    return run


def block_sampling(device: torch.device, tokens: int) -> Sampling:
    """One block, in bfloat16 on a GPU and float32 on a CPU, which computes faster in it."""
    torch.manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    block = Block().to(device, dtype).eval()
    samples = weight_samples(linear_layers(block)[0])
    img, txt, vector = (torch.randn(1, *shape, WIDTH).to(device, dtype) for shape in ((tokens,), (TEXT,), ()))

    def run(detail: str) -> Pairs:
        pairs = Pairs(block, detail, samples, device)
        with torch.inference_mode():
            for step in range(BLOCK_STEPS):
                pairs(img, torch.tensor(1 - step / BLOCK_STEPS), txt, vector)
        return pairs.finish(1)

    return run


def costs(run: Sampling, what: str, runs: int, device: torch.device) -> list[dict[str, Any]]:
    """One row for each level of detail."""
    rows = []
    print(f"\n{what}, {device.type}\n\n| detail | an evaluation without, s | pairs | by pairs | by clock | at most |")
    print("|---|---|---|---|---|---|")
    for detail in DETAILS:
        run(detail)  # warm
        samplings = [run(detail) for _ in range(runs)]
        pairs = [pair for sampling in samplings for pair in sampling.seconds]
        without = statistics.median(without for without, _ in pairs)
        low, middle, high = statistics.quantiles([with_it / without for without, with_it in pairs], n=4)
        # Of a median; the quartiles of a normal distribution are 1.349 deviations apart.
        error = 1.253 * (high - low) / 1.349 / len(pairs) ** 0.5
        inside, spent = sum(one.inside for one in samplings), sum(with_it for _, with_it in pairs)
        # The host's time says nothing of a GPU's.
        clocked = spent / (spent - inside) if device.type == "cpu" else None
        rows.append({"model": what, "device": device.type, "detail": detail, "without_s": without, "pairs": len(pairs),
                     "by_pairs": middle, "standard_error": error, "by_clock": clocked, "target": TARGETS[detail]})  # fmt: skip
        print(f"| {detail} | {without:.3f} | {len(pairs)} | {middle:.3f} ± {error:.3f} "
              f"| {'' if clocked is None else format(clocked, '.3f')} | {TARGETS[detail]:.2f} |", flush=True)  # fmt: skip
    return rows


def clock(device: torch.device) -> float:
    """Seconds: of this process's work where it does all of it."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that something takes, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock(device)
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock(device) - started, result


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
