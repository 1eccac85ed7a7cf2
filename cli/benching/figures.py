"""What the generations of each model come to.

Times are of warm generations only, divided by the pictures of a generation. What is compared between two models is
compared on the same prompts. The pictures of one block share the machine's state, so the unit of a speed-up is the
block: its interval is Student's t over the blocks' logarithmic ratios. Prompts are independent in quality, so there
each prompt counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ...converters.pictures import Interval, mean_interval
from .schedule import COLD, WARM

SCORES = ("psnr_db", "ssim", "haarpsi")
Entry = Mapping[str, Any]


def model_figures(entries: Sequence[Entry], expected: Sequence[Entry]) -> dict[str, Any]:
    """Of one model, and of the reference (the same list for the reference itself)."""
    made = [entry for entry in entries if "failed" not in entry]
    cold = [entry["seconds"] for entry in made if entry["kind"] == COLD]
    warm = [_per_image(entry) for entry in made if entry["kind"] == WARM]
    images = max((len(entry["pictures"]) for entry in made), default=1) or 1
    return {
        "generations": len(entries),
        "made": len(made),
        "images": sum(len(entry["pictures"]) for entry in made),
        "films": sum(entry["films"] for entry in made),
        "failed": len(entries) - len(made),
        "failures": [
            {"picture": entry["picture"], "reason": entry["failed"]} for entry in entries if "failed" in entry
        ],
        "cold_start_s": _spread(cold),
        "load_s": statistics.median(cold) - images * statistics.median(warm) if cold and warm else None,
        "seconds_per_image": _spread(warm),
        "speedup": speedup(expected, entries) if entries is not expected else None,
        "reloaded": sum(entry["reloaded"] for entry in made),
        "peak_bytes": _peaks(made),
        "quality": _quality(made) if entries is not expected else None,
    }


def speedup(expected: Sequence[Entry], entries: Sequence[Entry]) -> dict[str, Any] | None:
    """How many times faster than the reference, on the warm pictures that both made."""
    theirs = {entry["picture"]: entry for entry in expected if entry.get("kind") == WARM}
    blocks: dict[int, list[tuple[float, float]]] = {}
    for entry in entries:
        if entry.get("kind") == WARM and entry["picture"] in theirs:
            pair = _per_image(theirs[entry["picture"]]), _per_image(entry)
            if min(pair) > 0:
                blocks.setdefault(entry["block"], []).append(pair)
    ratios = [math.log(_mean(pairs, 0) / _mean(pairs, 1)) for pairs in blocks.values()]
    if not ratios:
        return None
    found = mean_interval(ratios)
    known = math.isfinite(found.half_width)
    return {
        "times": math.exp(found.mean),
        "low": math.exp(found.low) if known else None,
        "high": math.exp(found.high) if known else None,
        "blocks": found.count,
        "pairs": sum(map(len, blocks.values())),
    }


def drift(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The machine's speed from block to block: time of a block over the mean of all, models averaged."""
    by_model: dict[int, dict[int, list[float]]] = {}
    for entry in entries:
        if entry.get("kind") == WARM and entry["seconds"] > 0:
            by_model.setdefault(entry["model"], {}).setdefault(entry["block"], []).append(_per_image(entry))
    ratios: dict[int, list[float]] = {}
    for blocks in by_model.values():
        overall = statistics.fmean(statistics.fmean(times) for times in blocks.values())
        for block, times in blocks.items():
            ratios.setdefault(block, []).append(math.log(statistics.fmean(times) / overall))
    if len(ratios) < 2:
        return None
    found = {block: math.exp(statistics.fmean(values)) for block, values in sorted(ratios.items())}
    return {"by_block": list(found.values()), "slowest_over_fastest": max(found.values()) / min(found.values())}


def _quality(made: Sequence[Entry]) -> dict[str, Any] | None:
    scored = [entry for entry in made if "scores" in entry]
    unscored = sorted({entry["unscored"] for entry in made if "unscored" in entry})
    if not scored:
        return {"pairs": 0, "equal": 0, "reasons": unscored} if unscored else None
    found: dict[str, Any] = {
        "pairs": len(scored),
        "equal": sum(entry["scores"]["equal"] for entry in scored),
        "reasons": unscored,
    }
    for name in SCORES:
        values = {entry["picture"]: entry["scores"][name] for entry in scored if entry["scores"][name] is not None}
        if values:
            worst = min(values, key=lambda picture: values[picture])
            found[name] = {
                **_interval(mean_interval(list(values.values()))),
                "median": statistics.median(values.values()),
                "worst": values[worst],
                "worst_picture": worst,
            }
    return found


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    """count, mean, median, standard deviation, quartiles and extremes; None without values."""
    if not values:
        return None
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "count": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "stdev": statistics.stdev(values) if len(values) > 1 else None,
        "quarter": quarters[0],
        "three_quarters": quarters[2],
        "least": min(values),
        "most": max(values),
    }


def _interval(found: Interval) -> dict[str, Any]:
    known = math.isfinite(found.half_width)
    return {
        "mean": found.mean,
        "low": found.low if known else None,
        "high": found.high if known else None,
        "count": found.count,
    }


def _peaks(made: Sequence[Entry]) -> dict[str, int]:
    names = sorted({name for entry in made for name in entry["memory"]})
    return {name: max(entry["memory"].get(name, 0) for entry in made) for name in names}


def _per_image(entry: Entry) -> float:
    return float(entry["seconds"]) / max(1, len(entry["pictures"]))


def _mean(pairs: Sequence[tuple[float, float]], side: int) -> float:
    return statistics.fmean(pair[side] for pair in pairs)
