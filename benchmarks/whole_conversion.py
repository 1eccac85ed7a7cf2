"""Time and peak memory of whole conversions of Qwen-Image-shaped FP8 sources of several sizes.

    python benchmarks/whole_conversion.py [--blocks 3] [--runs 5] [--rounding NAME …] [--sparse] [--folder FOLDER]
        [--json FILE]

Sources are raw-cast FP8, 3072 wide, 0.34 GB a block; 60 blocks are all of Qwen-Image. With ``--sparse``
they are files of zeros that take no disk space, for sizes that do not fit (the outputs are written in
full: 60 blocks need 18 GB free); their floor is too low, since no disk is read. In every run the
conversions stand beside their floor: the time for only reading the source and writing the output's bytes
with fsync. The second floor does so as the conversion does, on disk every 64 MB and then no longer in the
system's memory, and reads into the same memory again and again: where fresh memory is dear, as in some
virtual machines, it is much lower. Peak memory is the most of this process so far, above its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.containers.layout import TensorSpec, lay_out
from nvfp4_studio.converters.writing.positioned import PositionedFile
from nvfp4_studio.converters.writing.syncing import SYNC_BYTES

WIDTH = 3072
LAYERS = {
    **{f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")},
    **{f"{stream}_mlp.net.0.proj": (4, 1) for stream in ("img", "txt")},
    **{f"{stream}_mlp.net.2": (1, 4) for stream in ("img", "txt")},
    **{f"{stream}_mod.1": (6, 1) for stream in ("img", "txt")},
}  # fmt: skip


def make_source(path: Path, blocks: int, sparse: bool) -> None:
    """A checkpoint with ``blocks`` transformer blocks: Gaussian weights, or a file of holes."""
    prefix = "model.diffusion_model."
    specs = [
        TensorSpec(
            f"{prefix}transformer_blocks.{block}.{name}.weight", torch.float8_e4m3fn, (rows * WIDTH, columns * WIDTH)
        )
        for block in range(blocks)
        for name, (rows, columns) in LAYERS.items()
    ]
    specs += [
        TensorSpec(f"{prefix}txt_norm.weight", torch.bfloat16, (3584,)),
        TensorSpec(f"{prefix}img_in.weight", torch.bfloat16, (WIDTH, 64)),
    ]
    head, _ = lay_out(specs, {})
    size = len(head) + sum(spec.nbytes for spec in specs)
    with path.open("wb") as file:
        file.write(head)
        if not sparse:
            values = torch.randn(WIDTH * WIDTH, generator=torch.Generator().manual_seed(0)) * 20
            tile = values.to(torch.float8_e4m3fn).view(torch.uint8).numpy().data
            for _ in range(size // len(tile)):
                file.write(tile)
            os.fsync(file.fileno())
        file.truncate(size)


def floor(source: Path, target: Path, size: int) -> float:
    """Seconds for reading ``source`` and writing ``size`` bytes of it with fsync."""
    started = time.perf_counter()
    left = size
    with source.open("rb") as read, target.open("wb") as written:
        while chunk := read.read(16 << 20):
            written.write(chunk[:left])
            left -= min(left, len(chunk))
        written.flush()
        os.fsync(written.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def floor_in_steps(source: Path, target: Path, size: int) -> float:
    """As ``floor``, but through one piece of memory, and synced and let go of every 64 MB."""
    started = time.perf_counter()
    left, waiting = size, 0
    memory = memoryview(bytearray(16 << 20))
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as written:
        file = PositionedFile(written)
        while count := read.readinto(memory):
            written_now = min(left, count)
            file.write(size - left, memory[:written_now])
            left -= written_now
            waiting += written_now
            if waiting >= SYNC_BYTES or (waiting and not left):
                file.sync()
                file.let_go()
                waiting = 0
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def peak_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure(folder: Path, blocks: int, runs: int, sparse: bool, roundings: list[str]) -> list[dict[str, float | str]]:
    """Floors and conversions in turn; medians, and the medians of the ratios within each run."""
    source, target = folder / "source.safetensors", folder / "out.safetensors"
    make_source(source, blocks, sparse)
    found: dict[str, list[tuple[float, float, float]]] = {rounding: [] for rounding in roundings}
    for _ in range(runs):
        seconds = {}
        for rounding in roundings:
            started = time.perf_counter()
            options = Options(recipe="qwen-image-v3", rounding=rounding)
            summary = convert(source, target, options, device="cpu").summary
            seconds[rounding] = time.perf_counter() - started
            target.unlink()
        floors = [measured(source, target, summary["output_bytes"]) for measured in (floor, floor_in_steps)]
        for rounding in roundings:
            found[rounding].append((seconds[rounding], seconds[rounding] / floors[0], seconds[rounding] / floors[1]))
    return [
        {
            "blocks": blocks,
            "rounding": rounding,
            "source_bytes": summary["source_bytes"],
            "output_bytes": summary["output_bytes"],
            **dict(
                zip(
                    ("seconds", "times_the_floor", "times_the_floor_in_steps"),
                    map(statistics.median, zip(*rows, strict=True)),
                    strict=True,
                )
            ),
        }
        for rounding, rows in found.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[3])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounding", nargs="+", default=["block-search", "four-over-six", "nearest"])
    options = parser.parse_args()
    imports = peak_mb()
    rows = []
    print(f"medians of {options.runs} runs; imports: {imports:.0f} MB\n")
    print(
        "| blocks | source GB | output GB | rounding | seconds | times the floor | in steps | peak MB above imports |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for blocks in options.blocks:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = measure(Path(folder), blocks, options.runs, options.sparse, options.rounding)
        for row in found:
            row["peak_mb_above_imports"] = peak_mb() - imports
            rows.append(row)
            print(
                f"| {blocks} | {row['source_bytes'] / 1e9:.2f} | {row['output_bytes'] / 1e9:.2f} | {row['rounding']} "
                f"| {row['seconds']:.1f} | {row['times_the_floor']:.2f} | {row['times_the_floor_in_steps']:.2f} "
                f"| {row['peak_mb_above_imports']:.0f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
