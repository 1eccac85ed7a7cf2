"""Tables of kernel speeds: what one GPU multiplies, quantizes and moves in a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PlanError

KERNELS = ("bf16", "fp8", "mxfp8", "nvfp4", "int8")
"""Kinds of matrix multiplication. FP8 is meant with sums in float32, as ComfyUI asks for them."""
DEFAULT_TABLE = "rtx-5090"
FOLDER = Path(__file__).parent
MAX_BYTES, MAX_TEXT = 1 << 16, 500


@dataclass(frozen=True)
class KernelTable:
    """Speeds of one GPU.

    ``source``: where the figures come from, and ``date``: when they were looked up or measured. ``measured``: False for
    a specification's peaks, which no kernel reaches but which all miss by much the same factor, so that ratios hold.
    ``tflops``: dense multiply-adds, two operations each, in 10¹² a second, by kind of kernel; one that is missing
    is computed by decoding the weight and multiplying in BF16, as ComfyUI does. ``bandwidth``: of the GPU's memory
    in 10⁹ bytes a second, read and written ones together. ``quantizing``: 10⁹ bytes of BF16 input a second that are read,
    rounded and written, by kind, the written ones not counted; where it is missing the bandwidth is what limits.
    """

    name: str
    gpu: str
    source: str
    date: str
    tflops: Mapping[str, float]
    bandwidth: float
    measured: bool = False
    quantizing: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tflops": dict(self.tflops), "quantizing": dict(self.quantizing)}


def available_tables() -> dict[str, KernelTable]:
    """The built-in tables by name."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.json"))}


def load_table(name: str) -> KernelTable:
    """A built-in table, or a user's file (a name that ends in ``.json``).

    Raises:
        PlanError: no such table, or none.
    """
    if name.endswith(".json"):
        return _read(Path(name))
    known = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in known:
        raise PlanError(
            f"There is no table of kernel speeds {name[:80]!r}; choose one of {', '.join(known)} or a .json file."
        )
    return _read(FOLDER / f"{name}.json")


def _read(path: Path) -> KernelTable:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise PlanError(f"{path} has more than {MAX_BYTES} bytes, too many for a table of kernel speeds.")
        data = json.loads(content)
    except OSError as error:
        raise PlanError(f"The table of kernel speeds {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"The table of kernel speeds {path} is not JSON ({str(error)[:80]}).") from error
    return table_from_json(data, str(path))


def table_from_json(data: Any, where: str) -> KernelTable:
    """Check a table read from JSON.

    Raises:
        PlanError: with the field that is wrong and what is expected there.
    """
    if not isinstance(data, dict):
        raise PlanError(f"{where} is no table of kernel speeds, which is a JSON object.")
    for key in ("name", "gpu", "source", "date"):
        text = data.get(key)
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT or not text.isprintable():
            raise PlanError(
                f'{where}: "{key}" must be a text of at most {MAX_TEXT} characters, not {str(text)[:40]!r}.'
            )
    for key in ("tflops", "quantizing"):
        speeds = data.get(key, {})
        if not isinstance(speeds, dict) or not all(kind in KERNELS and _speed(value) for kind, value in speeds.items()):
            raise PlanError(
                f'{where}: "{key}" takes numbers from 0.001 to 1e9 for {", ".join(KERNELS)}, not {str(speeds)[:60]!r}.'
            )
    missing = [kind for kind in ("bf16", "fp8") if kind not in data.get("tflops", {})]
    if missing:
        raise PlanError(f'{where}: "tflops" lacks {" and ".join(missing)}, by which all others are told.')
    if not _speed(data.get("bandwidth")):
        raise PlanError(
            f'{where}: "bandwidth" must be a number from 0.001 to 1e9, not {str(data.get("bandwidth"))[:40]!r}.'
        )
    if not isinstance(data.get("measured", False), bool):
        raise PlanError(f'{where}: "measured" must be true or false, not {str(data["measured"])[:40]!r}.')
    known = KernelTable.__dataclass_fields__
    return KernelTable(**{key: value for key, value in data.items() if key in known})


def _speed(value: Any) -> bool:
    """Any GPU's, in TFLOP/s or GB/s; what is nearly none would make times that are no numbers."""
    return type(value) in (int, float) and 1e-3 <= value < 1e9
