"""The table of a published weight-only NVFP4 conversion, reproduced in kind and then made with the default rounding.

    python benchmarks/weight_only_table.py [--width 1024] [--folder DIR]

The published one (SoulX-Singer, by torchao): 276 of 277 Linear layers, mean relative RMSE 9.49 %, cosine 0.9954, 2687.54 ->
396.62 MB. The sizes say that its 276 layers hold 666.4 million weights in float32. Here a state dict of as many
layers and weights is made of random numbers, converted with recipe weight-only by nearest rounding and by
default, and verified as `nvfp4-studio verify` does. Width 1024 takes 3 GB of disk and some minutes; 128 is as true.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Options, convert, open_source
from nvfp4_studio.converters.fidelity import Fidelity
from nvfp4_studio.converters.verify_outputs import weight_fidelity

BLOCKS = 29
PUBLISHED = (276, 277, 0.0949, 0.9954, 2687.54, 396.62)


def layers(width: int) -> dict[str, tuple[int, int]]:
    """Names and shapes of 277 Linear layers in a singing synthesiser's kind of transformer, 666 M weights at width 1024."""
    hidden = width * 310 // 64 // 16 * 16
    found: dict[str, tuple[int, int]] = {"out_proj": (100, width)}
    for block in range(4):
        found |= {f"preflow.{block}.pwconv1": (2 * width, width), f"preflow.{block}.pwconv2": (width, 2 * width)}
    found["cond_emb"] = (width, width // 2)
    for name in ("mel_mlp", "cond_mlp", "step_mlp"):
        found |= {f"{name}.0": (4 * width, width), f"{name}.2": (width, 4 * width)}
    for block in range(BLOCKS):
        layer = f"layers.{block}."
        found |= {f"{layer}self_attn.{name}_proj": (width, width) for name in "qkvo"}
        found |= {f"{layer}mlp.{name}_proj": (hidden, width) for name in ("gate", "up")}
        found[f"{layer}mlp.down_proj"] = (width, hidden)
        found |= {f"{layer}{name}.to_weight": (width, width) for name in ("input_scale_net", "post_scale_net")}
    return found


def make(path: Path, width: int) -> None:
    """A checkpoint of random float32 weights, spread as layers are initialised."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in layers(width).items():
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    save_file(tensors, path)


def converted(source: Path, target: Path, rounding: str) -> Fidelity:
    """The table of one conversion."""
    report = convert(source, target, Options(recipe="weight-only", rounding=rounding), device="cpu", overwrite=True)
    with open_source(source) as before, open_source(target) as after:
        return weight_fidelity(before, after, report.verification.layers)


def line(label: str, quantized: int, linear: int, error: float, cosine: float, before: float, after: float) -> str:
    return f"{label:<22} {quantized:>4} of {linear} {error:>9.2%} {cosine:>8.4f} {before:>10.2f} -> {after:.2f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--folder", type=Path, help="where the files go, default a temporary folder")
    arguments = parser.parse_args()
    print(f"{'':<22} {'layers':>11} {'rel. RMSE':>9} {'cosine':>8}")
    print(line("published", *PUBLISHED))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = Path(folder) / "source.safetensors"
        make(source, arguments.width)
        for rounding in ("nearest", "four-over-six", "auto"):
            found = converted(source, Path(folder) / f"{rounding}.safetensors", rounding)
            figures = found.mean(lambda layer: layer.rel_rmse), found.mean(lambda layer: layer.cosine)
            sizes = found.source_bytes / 1e6, found.output_bytes / 1e6
            label = f"{rounding}, grade {found.grade()}"
            print(line(label, found.quantized, found.linear, *figures, *sizes))


if __name__ == "__main__":
    main()
