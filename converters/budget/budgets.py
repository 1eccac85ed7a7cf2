"""A budget as a user writes it: ``size<=12GB``, ``size<=0.8``, ``speed>=1.5``, ``quality>=30dB``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import PlanError

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_FORM = re.compile(r"\s*(size|speed|quality)\s*(<=|>=|≤|≥)\s*(\d{1,15}(?:\.\d{0,9})?|\.\d{1,9})\s*([A-Za-z×%]*)\s*")
_SIGN = {"size": "<=", "speed": ">=", "quality": ">="}
_EXAMPLES = "size<=12GB, size<=0.8 (of the source), speed>=1.5 (times FP8) or quality>=30dB"


@dataclass(frozen=True)
class Budget:
    """``aspect``: ``size``, ``speed`` or ``quality``.

    ``limit``: of a size in bytes, or its share of the source's when ``relative``; of a speed a multiple of the same
    model's in FP8; of a quality in dB, minus ten times the logarithm of the predicted relative squared error.
    """

    aspect: str
    limit: float
    relative: bool = False

    def __str__(self) -> str:
        """As ``parse_budget`` reads it."""
        number = f"{self.limit:.12g}"
        if self.aspect == "size" and not self.relative:
            unit = next((unit for unit in ("TB", "GB", "MB", "kB") if self.limit >= UNITS[unit]), "kB")
            number = f"{self.limit / UNITS[unit]:.12g}{unit}"
        return f"{self.aspect}{_SIGN[self.aspect]}{number}{'dB' if self.aspect == 'quality' else ''}"


def parse_budget(text: str) -> Budget:
    """Read a budget.

    Raises:
        PlanError: it is none, with examples of what is.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise PlanError(f"{text[:60]!r} is no budget; write {_EXAMPLES}.")
    aspect, sign, number, unit = match[1], match[2], float(match[3]), match[4]
    if (sign in ("<=", "≤")) != (aspect == "size"):
        raise PlanError(f"A {aspect} is bounded by {_SIGN[aspect]}, not {sign}; write {_EXAMPLES}.")
    factors = {"size": {"": 1.0, "%": 0.01, **UNITS}, "speed": {"": 1.0, "x": 1.0, "×": 1.0}}
    allowed = factors.get(aspect, {"": 1.0, "dB": 1.0})
    if unit not in allowed:
        raise PlanError(f"A {aspect} is not told in {unit!r}; write {_EXAMPLES}.")
    limit = number * allowed[unit]
    relative = aspect == "size" and unit in ("", "%")
    if limit <= 0 or not math.isfinite(limit) or (relative and limit > 2):
        raise PlanError(f"{text.strip()[:60]!r} bounds nothing that could be; write {_EXAMPLES}.")
    return Budget(aspect, limit, relative)
