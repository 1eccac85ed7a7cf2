"""What the server's history says of one generation: its own clock, what came from its cache, which pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..servers.errors import JobFailed

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
"""Pictures that are compared; films are timed only."""

MAX_PICTURES = 1000
"""Of one generation: the frames of a long film."""


class ServedFromCache(JobFailed):
    """The server did not compute the picture; its time says nothing."""


@dataclass(frozen=True)
class Generation:
    """seconds: from the server's `execution_start` to its `execution_success`, to the millisecond.

    cached: nodes that did not run. pictures: filename, subfolder and type of each, in the nodes' order. others: number
    of output files that are no pictures.
    """

    seconds: float
    cached: frozenset[str]
    pictures: tuple[Mapping[str, str], ...]
    others: int


def read_generation(entry: Mapping[str, Any], fresh: frozenset[str]) -> Generation:
    """From the prompt's entry in the history.

    fresh: nodes whose inputs are new in every generation. One of them in the cache means that the same picture was
    asked for before and was not made again.
    """
    status = entry.get("status")
    times: dict[str, float] = {}
    cached: frozenset[str] = frozenset()
    for message in status.get("messages", ()) if isinstance(status, dict) else ():
        if not (isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict)):
            continue
        name, data = message
        if name in ("execution_start", "execution_success") and _is_time(data.get("timestamp")):
            times[name] = data["timestamp"] / 1000
        if name == "execution_cached" and isinstance(data.get("nodes"), list):
            cached = frozenset(map(str, data["nodes"]))
    if len(times) < 2:
        raise JobFailed("the server's history has no times of it: update ComfyUI there.")
    seconds = times["execution_success"] - times["execution_start"]
    if seconds < 0:
        raise JobFailed(
            f"by the server's clock it ended {-seconds:.3f} s before it began: the clock was set meanwhile."
        )
    served = sorted(cached & fresh)
    if served:
        raise ServedFromCache(f"the server had its result in the cache (node {served[0]} did not run).")
    pictures, others = _outputs(entry.get("outputs"))
    if len(pictures) > MAX_PICTURES:
        raise JobFailed(f"it has {len(pictures)} pictures, more than {MAX_PICTURES}: make fewer at a time.")
    return Generation(seconds, cached, pictures, others)


def _is_time(value: object) -> TypeGuard[float]:
    """Milliseconds since 1970, before the year 5000."""
    return isinstance(value, (int, float)) and 0 <= value < 1e14


def _outputs(outputs: object) -> tuple[tuple[Mapping[str, str], ...], int]:
    pictures: list[Mapping[str, str]] = []
    others = 0
    for _, output in sorted(outputs.items()) if isinstance(outputs, dict) else ():
        for items in output.values() if isinstance(output, dict) else ():
            for item in items if isinstance(items, list) else ():
                if not (isinstance(item, dict) and isinstance(item.get("filename"), str)):
                    continue
                if item["filename"].lower().endswith(SUFFIXES):
                    pictures.append({key: str(item.get(key, "")) for key in ("filename", "subfolder", "type")})
                else:
                    others += 1
    return tuple(pictures), others
