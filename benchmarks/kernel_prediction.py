"""What the tables of kernel speeds predict for three published recipes of Qwen-Image, against what was published.

    python benchmarks/kernel_prediction.py [--table rtx-5090] [--text-tokens 100] [--side 1024]

Published, on an RTX 5090 with stock ComfyUI: 8.38 s an image in FP8, 4.55 s with recipe V3, 6.05 s with V4, 8.39 s with V5
(model card of Qwen-Rapid-AIO-NVFP4). The layers are Qwen-Image's: 60 blocks, width 3072, image and text stream.
"""

from __future__ import annotations

import argparse

from nvfp4_studio.converters import load_recipe
from nvfp4_studio.converters.kernels import OTHER_SHARE, KernelTable, available_tables, kernel_of, layer_seconds
from nvfp4_studio.converters.recipe import Blocks

WIDTH, BLOCKS = 3072, 60
PUBLISHED = {"qwen-image-v3": 8.38 / 4.55, "qwen-image-v4": 8.38 / 6.05, "qwen-image-v5": 8.38 / 8.39}
NVFP4_BYTES = 0.5625
"""Of one weight, with its share of a block scale."""


def layers(image_tokens: int, text_tokens: int) -> dict[str, tuple[tuple[int, int], int]]:
    """Key -> (shape, rows of its input) of one block's Linear layers."""
    square, found = (WIDTH, WIDTH), {}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        found[f"attn.{name}"] = square, image_tokens
    for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        found[f"attn.{name}"] = square, text_tokens
    for stream, rows in (("img", image_tokens), ("txt", text_tokens)):
        found[f"{stream}_mlp.net.0.proj"] = (4 * WIDTH, WIDTH), rows
        found[f"{stream}_mlp.net.2"] = (WIDTH, 4 * WIDTH), rows
        found[f"{stream}_mod.1"] = (6 * WIDTH, WIDTH), 1
    return found


def seconds(table: KernelTable, recipe: str | None, image_tokens: int, text_tokens: int) -> float:
    """Of all Linear layers in one evaluation; without a recipe all are FP8."""
    keys = {f"transformer_blocks.0.{name}.weight": what for name, what in layers(image_tokens, text_tokens).items()}
    blocks = Blocks({"transformer_blocks.": BLOCKS})
    total = 0.0
    for key, (shape, rows) in keys.items():
        policy = load_recipe(recipe).policy(key, shape, blocks)[0] if recipe else "float8_e4m3fn"
        size = shape[0] * shape[1] * (NVFP4_BYTES if policy == "nvfp4" else 1.0)
        total += layer_seconds(table, kernel_of(policy, False), shape, rows, int(size))
    return BLOCKS * total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=available_tables(), default="rtx-5090")
    parser.add_argument("--text-tokens", type=int, default=100)
    parser.add_argument("--side", type=int, default=1024, help="of the picture in pixels")
    arguments = parser.parse_args()
    table, tokens = available_tables()[arguments.table], (arguments.side // 16) ** 2
    fp8 = seconds(table, None, tokens, arguments.text_tokens)
    other = OTHER_SHARE * fp8
    print(f"{table.gpu}: Linear layers in FP8 {fp8 * 1e3:.0f} ms an evaluation, everything else {other * 1e3:.0f} ms")
    print(f"{'recipe':<16} {'predicted':>9} {'published':>9} {'off by':>7}")
    for recipe, published in PUBLISHED.items():
        predicted = (fp8 + other) / (seconds(table, recipe, tokens, arguments.text_tokens) + other)
        print(f"{recipe:<16} {predicted:>9.2f} {published:>9.2f} {predicted / published - 1:>+7.0%}")


if __name__ == "__main__":
    main()
