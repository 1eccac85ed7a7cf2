"""The result as a page of Markdown: one table that says it all, then what it means and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...calibration.page import Section, counted, markdown
from ..markup import prose
from ..text import size

TABLE = ("model", "speed-up", "time per image", "median", "spread", "cold start", "images", "failed", "VRAM", "RAM")
QUALITY = ("model", "PSNR", "median", "worst", "SSIM", "HaarPSI", "prompts", "equal")
DASH = "-"
MEMORY = "VRAM and RAM: the most that everything on the machine used, looked at twice a second, so a shorter peak can be missed."


def page(result: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """`pictures`: file names of the plots, shown at the end."""
    models, request = result["models"], result["request"]
    sections = [
        Section("What the figures mean", tuple(map(prose, result["notes"]))),
        Section("Speed", _speed_lines(result), TABLE, escaped(speed_rows(result))),
    ]
    compared = quality_rows(result)
    if compared:
        lines = (
            f"Against the pictures of {prose(request['reference'])} with the same prompts and seeds; brackets: 95 % confidence interval of "
            "the mean over prompts (Student's t).",
            "PSNR in dB, over the pictures that are not equal; SSIM and HaarPSI are 1 for equal pictures.",
        )
        sections.append(Section("Quality", lines, QUALITY, escaped(compared)))
    sections += [Section("How it was measured", tuple(map(prose, _method(result))))]
    failures = [
        f"{model['name']}, picture {failure['picture']}: {failure['reason']}"
        for model in models
        for failure in model["failures"]
    ]
    if failures:
        sections.append(Section("Failures", tuple(map(prose, failures))))
    title = f"{counted(len(models), 'model')}, {counted(len(result['pictures']), 'prompt')} each"
    return markdown(title, sections) + "".join(f"\n![{name.rpartition('.')[0]}]({name})\n" for name in pictures)


def speed_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of the page, for a terminal."""
    return [_speed(model, result["request"]["reference"]) for model in result["models"]]


def quality_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [_quality(model) for model in result["models"] if model["quality"]]


def escaped(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The same rows for Markdown."""
    return tuple(tuple(map(prose, row)) for row in rows)


def _speed_lines(result: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "Time per image: mean of the warm generations, from the server's own clock; spread: standard deviation.",
        "Cold start: loading the model and making the first image, median; ComfyUI had forgotten everything, the system "
        "may have had the file in its memory.",
        MEMORY,
        f"Speed-up over {prose(result['request']['reference'])} on the same prompts within each block; brackets: 95 % confidence "
        "interval over the blocks (Student's t).",
    )


def _speed(model: Mapping[str, Any], reference: str) -> tuple[str, ...]:
    times, cold, faster, peak = model["seconds_per_image"], model["cold_start_s"], model["speedup"], model["peak_bytes"]
    return (
        model["name"],
        "reference" if model["name"] == reference else DASH if faster is None else interval(faster, "times", 2, " x"),
        seconds(times and times["mean"]),
        seconds(times and times["median"]),
        seconds(times and times["stdev"]),
        seconds(cold and cold["median"]),
        f"{model['images'] or model['films']}",
        f"{model['failed']}",
        size(peak["vram"]) if "vram" in peak else DASH,
        size(peak["ram"]) if "ram" in peak else DASH,
    )


def _quality(model: Mapping[str, Any]) -> tuple[str, ...]:
    found = model["quality"]
    psnr, ssim, haarpsi = (found.get(name) for name in ("psnr_db", "ssim", "haarpsi"))
    return (
        model["name"],
        interval(psnr, "mean", 2, " dB"),
        DASH if psnr is None else f"{psnr['median']:.2f} dB",
        DASH if psnr is None else f"{psnr['worst']:.2f} dB (picture {psnr['worst_picture']})",
        interval(ssim, "mean", 4),
        interval(haarpsi, "mean", 4),
        f"{found['pairs']}",
        f"{found['equal']}",
    )


def _method(result: Mapping[str, Any]) -> list[str]:
    request, server = result["request"], result["server"]
    versions = ", ".join(f"{name} {server[key]}" for name, key in (("ComfyUI", "comfyui"), ("PyTorch", "pytorch")))
    lines = [
        f"{versions} on {server['hardware']['device']}; nvfp4-studio {result['nvfp4_studio']}.",
        f"Blocks of {request['block']} prompts; within a block every model made the same pictures, in an order of the models "
        f"that changes from block to block (seed {request['seed']}).",
        "Before each model of a block the server unloaded everything; the first image after that is the cold start and in "
        "no other time.",
        *_switching(result),
        f"Exchanged in the workflow: {', '.join(server['loaders'])}.",
    ]
    lines += [f"{factor}: {', '.join(places)}." for factor, places in server["varied"].items()]
    return lines


def _switching(result: Mapping[str, Any]) -> list[str]:
    """What it cost to load each model anew in every block."""
    loads = [
        f"{model['name']} {seconds(model['load_s']) if model['load_s'] > 0 else 'less than its times vary'}"
        for model in result["models"]
        if model["load_s"] is not None
    ]
    if not loads:
        return []
    return [
        f"Each model was loaded {len(result['orders'])} times for that; loading took, as cold start less a warm generation "
        f"in the median: {', '.join(loads)}."
    ]


def interval(found: Mapping[str, Any] | None, middle: str, digits: int, unit: str = "") -> str:
    """ "1.85 x (1.80 to 1.90)", without the brackets where nothing is known of the spread."""
    if found is None:
        return DASH
    text = f"{found[middle]:.{digits}f}{unit}"
    if found["low"] is None:
        return text
    return f"{text} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def seconds(value: float | None) -> str:
    """Three significant digits and more where there are more before the point: "0.0234 s", "134 s"."""
    if value is None:
        return DASH
    return f"{value:.0f} s" if value >= 100 else f"{value:.3g} s"
