"""Time and peak memory of whole conversions of Qwen-Image-shaped FP8 sources of several sizes.

    python benchmarks/large_source.py [--blocks 6 60] [--folder FOLDER] [--json FILE]

Sources are sparse files of zeros (raw-cast FP8, 3072 wide, 0.34 GB a block, 60 blocks are all of
Qwen-Image), so they take no disk space, but the outputs are written in full: 60 blocks need 18 GB free.
Beside each conversion stands the floor: the time for only reading the source and writing the output's
bytes with fsync. Peak memory is that of this process above its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.writer import TensorSpec, lay_out

WIDTH = 3072
LAYERS = {
    **{f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")},
    **{f"{stream}_mlp.net.0.proj": (4, 1) for stream in ("img", "txt")},
    **{f"{stream}_mlp.net.2": (1, 4) for stream in ("img", "txt")},
    **{f"{stream}_mod.1": (6, 1) for stream in ("img", "txt")},
}  # fmt: skip


def make_source(path: Path, blocks: int) -> None:
    """A sparse checkpoint with ``blocks`` transformer blocks."""
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
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(spec.nbytes for spec in specs))


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


def peak_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 60])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    imports = peak_mb()
    rows = []
    print(
        f"imports: {imports:.0f} MB\n\n| blocks | source GB | output GB | seconds | times the floor | peak MB above imports |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for blocks in options.blocks:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            source, target = Path(folder, "source.safetensors"), Path(folder, "out.safetensors")
            make_source(source, blocks)
            started = time.perf_counter()
            summary = convert(source, target, Options(recipe="qwen-image-v3"), device="cpu").summary
            seconds = time.perf_counter() - started
            target.unlink()
            row = {
                "blocks": blocks,
                "source_bytes": summary["source_bytes"],
                "output_bytes": summary["output_bytes"],
                "seconds": seconds,
                "times_the_floor": seconds / floor(source, target, summary["output_bytes"]),
                "peak_mb_above_imports": peak_mb() - imports,
            }
        rows.append(row)
        print(
            f"| {blocks} | {row['source_bytes'] / 1e9:.2f} | {row['output_bytes'] / 1e9:.2f} | {seconds:.1f} "
            f"| {row['times_the_floor']:.2f} | {row['peak_mb_above_imports']:.0f} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
