"""The result as Markdown: one table for both models."""

from __future__ import annotations

from typing import Any

BEGIN, END = "<!-- budgets: made by benchmarks/budgets.py --write-readme -->", "<!-- /budgets -->"
HEADINGS = (
    "model, size of recipe",
    "formats",
    "NVFP4 layers",
    "of all weights",
    "predicted velocity, dB",
    "PSNR, dB",
    "over the recipe",
)
NAMES = {
    "recipe": "by hand",
    "budget": "**budget**",
    "budget, own errors only": "budget without influence",
    "budget beyond rules": "**budget, `--beyond-rules`**",
    "budget beyond rules, own errors only": "`--beyond-rules` without influence",
}


def table(result: dict[str, Any]) -> str:
    """What was measured, and a row for each way to choose."""
    versions = result["versions"]
    introduction = (
        f"`python benchmarks/budgets.py`, {result['date']}: PSNR of {result['seeds'] * result['classes']} pictures "
        f"({result['seeds']} seeds × {result['classes']} classes) to the same pictures of the FP8 source, quantized "
        "activations, mean ± 95 % confidence interval, *over the recipe* paired by seed; every plan of a group needs at most "
        f"the recipe's bytes; all other layers are the source's FP8; torch {versions['torch']}, comfy-kitchen "
        f"{versions['comfy-kitchen']}. *Predicted*: sum of the layers' errors times their influence. Both models draw a digit "
        "from a class label, so their text streams, which the recipe of SD3 spares, matter less than a real model's."
    )
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for groups in result["models"].values():
        for label, ways in groups.items():
            for way, found in ways.items():
                name = f"`{label}`" if way == "recipe" else ""
                lines.append(f"| {' | '.join([name, NAMES[way], *_cells(found)])} |")
    return "\n\n".join((introduction, "\n".join(lines)))


def _cells(found: dict[str, Any]) -> list[str]:
    over = "–"
    if "over_recipe_db" in found:
        over = f"{found['over_recipe_db']:+.1f} ± {found['over_recipe_interval_db']:.1f}"
    return [
        str(found["nvfp4_layers"]),
        f"{found['nvfp4_share']:.1%}",
        f"{found['predicted_db']:.1f}",
        f"{found['psnr_db']:.1f} ± {found['interval_db']:.1f}",
        over,
    ]
