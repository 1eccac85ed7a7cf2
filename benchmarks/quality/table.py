"""The results as Markdown: one table per model."""

from __future__ import annotations

from typing import Any

from nvfp4_studio.calibration import DETAILS
from nvfp4_studio.converters.pictures import Interval, mean_interval
from nvfp4_studio.converters.rounding import METHODS

BEGIN, END = (
    "<!-- picture-quality: made by benchmarks/picture_quality.py --write-readme -->",
    "<!-- /picture-quality -->",
)
HEADINGS = ("rounding", "calibration", "weights, dB", "W4A4, dB", "over nearest", "W4A16, dB", "over nearest")
REDRAWN_HEADINGS = ("W4A4 redrawn, over nearest", "W4A16 redrawn")
METHODS_IN_ORDER = ("nearest", *(name for name in METHODS if name != "nearest"))
FOUR_OVER_SIX = "four-over-six"
LAYOUTS = {"flux": "Flux.1's layout", "sd3": "Stable Diffusion 3.5's layout"}


def table(result: dict[str, Any], redrawn: dict[str, Any] | None = None) -> str:
    """All tables, with what was measured above and what ``auto`` takes below each.

    ``redrawn`` is the result of ``rounding_draws.py``; its figures get columns of their own.
    """
    versions = result["versions"]
    introduction = (
        f"`python benchmarks/picture_quality.py --gain --measured`, {result['date']}: PSNR of {result['seeds'] * result['classes']} "
        f"pictures ({result['seeds']} seeds × {result['classes']} classes) to the same pictures of the FP8 source, "
        f"mean ± 95 % confidence interval; calibrated on {result['calibration']['pictures']} pictures of other seeds; "
        f"torch {versions['torch']}, comfy-kitchen {versions['comfy-kitchen']}. *W4A4*: quantized activations; *W4A16*: "
        "weights alone, as on a GPU without NVFP4. *Over nearest* is paired by seed. *Weights*: SQNR. *pre_quant_scale*: "
        "`convert --pre-quant search`. *Measured gain*: `convert --gain`, ⟨y, y⟩ / ⟨y, y'⟩ of each layer's outputs on inputs "
        "kept while calibrating; *gain*: ⟨W, W⟩ / ⟨W, Q⟩ of its weights alone, which no command writes."
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
        for rounding, entry in sorted(model["roundings"].items(), key=_place):
            cells = [*_cells(rounding, entry), *(_redrawn_cells(draws.get(rounding, {})) if draws else ())]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
        chosen = (f"`{' and '.join(methods)}` with detail `{detail}`" for detail, methods in model["auto"].items())
        told = [f"`auto` takes {', '.join(chosen)}.", _rival(model, draws) if draws else "", _alone(model["roundings"])]
        parts.append(" ".join(filter(None, told)))
    if redrawn:
        parts.append(_four_over_six(result, redrawn))
    return "\n\n".join(parts)


def _place(row: tuple[str, Any]) -> tuple[int, int, str]:
    """Methods as they are listed everywhere, each before what is combined with it."""
    method, *extras = row[0].split(" + ")
    return METHODS_IN_ORDER.index(method), len(extras), row[0]


def _rival(model: dict[str, Any], draws: dict[str, Any]) -> str:
    """Of all methods that need no more than what ``auto`` takes, the one that comes closest to it, or beyond."""
    roundings, found = model["roundings"], []
    for detail, (taken,) in model["auto"].items():
        for other in METHODS_IN_ORDER:
            if other != taken and DETAILS.index(METHODS[other].NEEDS) <= DETAILS.index(detail):
                once = _over(roundings, taken, other, "by_seed_db")
                found.append((once.mean, detail, taken, other, once, _over(draws, taken, other, "by_draw_db")))
    _, detail, taken, other, once, often = min(found)
    return (
        f"Of all that need no more, {other} comes closest to it: with detail `{detail}`, W4A4, {taken} is {_told(once)} dB over "
        f"it as the model was trained and {_told(often)} dB redrawn."
    )


def _over(roundings: dict[str, Any], one: str, other: str, by: str) -> Interval:
    """How much closer a way is than another with quantized activations, paired."""
    pairs = zip(*(roundings[name]["quantized"][by] for name in (one, other)), strict=True)
    return mean_interval([ours - theirs for ours, theirs in pairs])


def _told(interval: Interval) -> str:
    return f"{interval.mean:+.1f} ± {interval.half_width:.1f}"


def _alone(roundings: dict[str, Any]) -> str:
    """What is combined with methods, paired by seed with the method alone, as a sentence; "" where nothing was."""
    told = []
    for extra in ("pre_quant_scale", "measured gain", "pre_quant_scale + measured gain"):
        found = []
        for method in METHODS_IN_ORDER:
            if f"{method} + {extra}" in roundings:
                found.append(f"{method} {_told(_over(roundings, f'{method} + {extra}', method, 'by_seed_db'))}")
        if found:
            told.append(f"{extra} {', '.join(found)}")
    return f"Over the same method alone, paired by seed, W4A4: {'; '.join(told)}." if told else ""


def _four_over_six(result: dict[str, Any], redrawn: dict[str, Any]) -> str:
    """What was expected of four-over-six and what was found."""

    def found(way: str) -> str:
        told = []
        for name, model in result["models"].items():
            once, often = (
                rows.get(way, {}).get("quantized", {}) for rows in (model["roundings"], redrawn["models"][name])
            )
            told.append(f"{_over_nearest(once)} dB in {LAYOUTS[name]} ({_over_nearest(often)} redrawn)")
        return " and ".join(told)

    return (
        "Four-over-six was expected to be 1 dB closer than nearest, which other measurements on small models had found. That is "
        f"not confirmed here: W4A4, it is {found(FOUR_OVER_SIX)}; with the gain of its weights {found(FOUR_OVER_SIX + ' + gain')}. "
        "So it is no default: `auto` without a calibration takes block-search, which, redrawn, is no further from the source than "
        "any method that needs as little, on both models."
    )


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
