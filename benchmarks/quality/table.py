"""The results as Markdown: one table per model."""

from __future__ import annotations

from typing import Any

BEGIN, END = (
    "<!-- picture-quality: made by benchmarks/picture_quality.py --write-readme -->",
    "<!-- /picture-quality -->",
)
HEADINGS = ("rounding", "calibration", "weights, dB", "W4A4, dB", "over nearest", "W4A16, dB", "over nearest")
REDRAWN_HEADINGS = ("W4A4 redrawn, over nearest", "W4A16 redrawn")
LAYOUTS = {"flux": "Flux.1's layout", "sd3": "Stable Diffusion 3.5's layout"}


def table(result: dict[str, Any], redrawn: dict[str, Any] | None = None) -> str:
    """All tables, with what was measured above and what ``auto`` takes below each.

    ``redrawn`` is the result of ``rounding_draws.py``; its figures get columns of their own.
    """
    versions = result["versions"]
    introduction = (
        f"`python benchmarks/picture_quality.py`, {result['date']}: PSNR of {result['seeds'] * result['classes']} "
        f"pictures ({result['seeds']} seeds × {result['classes']} classes) to the same pictures of the FP8 source, "
        f"mean ± 95 % confidence interval; calibrated on {result['calibration']['pictures']} pictures of other seeds; "
        f"torch {versions['torch']}, comfy-kitchen {versions['comfy-kitchen']}. *W4A4*: quantized activations; *W4A16*: "
        "weights alone, as on a GPU without NVFP4. *Over nearest* is paired by seed. *Weights*: SQNR."
    )
    if redrawn:
        introduction += (
            f" *Redrawn* (`python benchmarks/rounding_draws.py`): mean over {redrawn['draws']} roundings of the same "
            "model with other weights side by side in the blocks; all pictures of one file share one such draw, so "
            "these columns tell a method's worth from a model's luck."
        )
    parts = [introduction]
    for name, model in result["models"].items():
        draws = redrawn["models"][name] if redrawn else None
        title = f"**{LAYOUTS[name]}**, {model['parameters'] / 1e6:.1f} million weights, recipe `{model['recipe']}`"
        parts.append(f"{title}: {model['nvfp4_layers']} layers in NVFP4, {model['fp8_layers']} in FP8.")
        headings = HEADINGS + (REDRAWN_HEADINGS if draws else ())
        lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
        for rounding, entry in model["roundings"].items():
            cells = [*_cells(rounding, entry), *(_redrawn_cells(draws.get(rounding, {})) if draws else ())]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
        chosen = (f"`{' and '.join(methods)}` with detail `{detail}`" for detail, methods in model["auto"].items())
        parts.append(f"`auto` takes {', '.join(chosen)}.")
    return "\n\n".join(parts)


def _cells(rounding: str, entry: dict[str, Any]) -> list[str]:
    cells = [rounding, entry["needs"], f"{entry['weights_db']:.1f}"]
    for mode in ("quantized", "emulated"):
        measured = entry[mode]
        cells += [f"{measured['psnr_db']:.1f} ± {measured['interval_db']:.1f}", _over_nearest(measured)]
    return cells


def _redrawn_cells(entry: dict[str, Any]) -> list[str]:
    return [_over_nearest(entry.get(mode, {})) for mode in ("quantized", "emulated")]


def _over_nearest(measured: dict[str, Any]) -> str:
    if "over_nearest_db" not in measured:
        return "–"
    return f"{measured['over_nearest_db']:+.1f} ± {measured['over_nearest_interval_db']:.1f}"
