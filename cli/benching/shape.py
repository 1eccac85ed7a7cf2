"""What a result must look like before pages and plots believe it: somebody else may have written or changed it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from .journal import PICTURES

LONGEST = 20_000
LARGEST = 1e15
MOST_SECONDS = 1e9

Shape: TypeAlias = "Callable[[Any], bool] | dict[str, Shape] | list[Shape]"
"""A question about a value, or a table with at least these keys, or a list of any number of such values."""


def fits(value: Any, shape: Shape) -> bool:
    """Whether the value has this shape."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    return shape(value)


def maybe(shape: Shape) -> Shape:
    return lambda value: value is None or fits(value, shape)


def text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST and value.replace("\t", " ").isprintable()


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def count(value: Any) -> bool:
    return isinstance(value, int) and number(value) and value >= 0


def seconds(value: Any) -> bool:
    return number(value) and 0 <= value < MOST_SECONDS


def yes_or_no(value: Any) -> bool:
    return isinstance(value, bool)


def interval(value: Any) -> bool:
    """{"low", "high"}: both known, or neither."""
    known = [isinstance(value, dict) and value.get(end) is not None for end in ("low", "high")]
    return fits(value, {"low": maybe(number), "high": maybe(number)}) and known[0] == known[1]


def counts(value: Any) -> bool:
    return isinstance(value, dict) and all(count(one) for one in value.values())


def quality(value: Any) -> bool:
    scores = [value[name] for name in ("psnr_db", "ssim", "haarpsi") if isinstance(value, dict) and name in value]
    return fits(value, {"pairs": count, "equal": count, "reasons": [text]}) and all(
        interval(one) and fits(one, {"mean": number, "median": number, "worst": number, "worst_picture": count})
        for one in scores
    )


def places(value: Any) -> bool:
    return isinstance(value, dict) and all(text(name) and fits(one, [text]) for name, one in value.items())


def picture_path(value: Any) -> bool:
    """A file in the result's own folder of pictures."""
    return text(value) and ".." not in value and PurePosixPath(value).parts[:1] == (PICTURES,)


def finite(value: Any) -> bool:
    """Whether JSON can hold all of it again."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, (dict, list)):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, float) and not math.isfinite(one):
            return False
    return True


SPREAD: Shape = {
    "count": count,
    **dict.fromkeys(("mean", "median", "quarter", "three_quarters", "least", "most"), seconds),
    "stdev": maybe(seconds),
}
MODEL: Shape = {
    "name": text,
    "made_by": maybe({}),
    **dict.fromkeys(("generations", "made", "images", "films", "failed", "reloaded"), count),
    "failures": [{"picture": count, "reason": text}],
    "cold_start_s": maybe(SPREAD),
    "load_s": maybe(number),
    "seconds_per_image": maybe(SPREAD),
    "speedup": maybe(lambda found: interval(found) and fits(found, {"times": number, "blocks": count, "pairs": count})),
    "peak_bytes": counts,
    "quality": maybe(quality),
}
MADE: Shape = {"kind": text, "block": count, "seconds": seconds, "pictures": [picture_path]}
SCORES: Shape = {"psnr_db": maybe(number), "ssim": number, "haarpsi": number, "equal": yes_or_no}
RESULT: Shape = {
    "nvfp4_studio": text,
    "server": {
        "hardware": {"device": text, "meaning": text, "nvfp4": maybe(yes_or_no)},
        "comfyui": text,
        "pytorch": text,
        "loaders": [text],
        "varied": places,
    },
    "request": {"reference": text, "block": count, "seed": number, "pictures": count, "prompts": text},
    "orders": [[text]],
    "pictures": [{"text": maybe(text)}],
    "models": [MODEL],
    "notes": [text],
}


def is_result(found: Any) -> bool:
    """Whether everything that pages and plots look at is there, and fits together."""
    if not fits(found, RESULT) or not finite(found) or not isinstance(found.get("generations"), list):
        return False
    names = [model["name"] for model in found["models"]]
    return (
        found["request"]["reference"] in names
        and all(name in names for order in found["orders"] for name in order)
        and all(_is_generation(one, len(names), len(found["pictures"])) for one in found["generations"])
    )


def _is_generation(value: Any, models: int, pictures: int) -> bool:
    if not fits(value, {"model": count, "picture": count}) or not fits(
        value, {"failed": text} if "failed" in value else MADE
    ):
        return False
    scored = "scores" not in value or fits(value["scores"], SCORES)
    return scored and value["model"] < models and 1 <= value["picture"] <= pictures
