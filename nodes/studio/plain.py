"""Data as JSON that every browser reads, whatever the files hold that it was read from."""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH = 24
"""Lists and objects within each other; the pack's own answers have six."""
LARGEST = 2**1023
"""Larger whole numbers become infinite where a browser reads them."""


def as_json(value: Any) -> str:
    """JSON, with null for what JSON has no word for: numbers that are not finite, and what lies deeper than ``DEPTH``."""
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return json.dumps(_plain(value, DEPTH), allow_nan=False)


def is_number(value: object) -> bool:
    """Whether this is a finite number that can be computed with."""
    if isinstance(value, bool):
        return False
    return (isinstance(value, int) and abs(value) < LARGEST) or (isinstance(value, float) and math.isfinite(value))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, dict | list | tuple):
        if depth == 0:
            return None
        if isinstance(value, dict):
            return {str(key): _plain(item, depth - 1) for key, item in value.items()}
        return [_plain(item, depth - 1) for item in value]
    if value is None or isinstance(value, str | bool) or is_number(value):
        return value
    return None
