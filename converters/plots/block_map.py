"""All layers of a model at a glance: blocks across, layer types down, the colour a format or an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from ...calibration.kinds import NUMBER, kinds
from .canvas import (
    BLUE,
    MARGIN,
    ORANGE,
    PURPLE,
    Colour,
    Picture,
    blank,
    blend,
    legend,
    stacked,
)
from .heat import ROW, Key, draw_cells, heat_map

FORMAT_COLOURS: dict[str, Colour] = {
    "nvfp4": (118, 185, 0),
    "convrot_w4a4": (0, 158, 115),
    "asym_w4a8_int8": (86, 180, 233),
    "float8_e4m3fn": BLUE,
    "float8_e5m2": (70, 60, 160),
    "mxfp8": ORANGE,
    "int8_tensorwise": PURPLE,
    "bfloat16": (176, 182, 190),
    "float16": (150, 156, 166),
    "float32": (120, 126, 136),
}
OTHER: Colour = (200, 120, 110)
LABEL_WIDTH = 40
"""Pixels that a block's number may take."""
WORST_DB, BEST_DB = 10.0, 45.0
"""The ends of the colours: below 10 dB a layer is broken, beyond 45 dB nobody sees its error."""
MOST_DIGITS = 3
"""A number of more is no block's: no model has a thousand of them, and there would be no pixel for each."""
Value = TypeVar("Value")
Table = tuple[list[tuple[str, list[Value | None]]], list[str], int]


def format_map(title: str, layers: Sequence[tuple[str, str]]) -> Picture:
    """The stored format of each layer, from (layer's name, ComfyUI's name of the format)."""
    rows, columns, outside = layer_table(layers)
    used = {name for _, cells in rows for name in cells if name is not None}
    known = [name for name in FORMAT_COLOURS if name in used] + sorted(used - FORMAT_COLOURS.keys())
    top = MARGIN + 88
    image, draw = blank(title, top + ROW * len(rows) + 58, note=map_note(rows, outside))
    legend(draw, [(name, FORMAT_COLOURS.get(name, OTHER)) for name in known], MARGIN, MARGIN + 54)
    draw_cells(draw, top, rows, columns, "block", lambda name: FORMAT_COLOURS.get(name, OTHER), LABEL_WIDTH)
    return image


def error_map(title: str, layers: Sequence[tuple[str, float | None]]) -> Picture:
    """The error of each layer, from (layer's name, SQNR in dB or None where nothing changed)."""
    rows, columns, outside = layer_table(layers)
    key = Key(
        "SQNR in dB, higher is closer",
        lambda db: (db - WORST_DB) / (BEST_DB - WORST_DB),
        blend([(122, 10, 30), (213, 94, 0), (240, 200, 90), (150, 200, 150), BLUE]),
        tuple(((db - WORST_DB) / (BEST_DB - WORST_DB), f"{db:.0f}") for db in (10.0, 20.0, 30.0, 40.0)),
        nothing="unchanged, or no such layer",
    )
    return heat_map(title, map_note(rows, outside), rows, columns, "block", key)


def block_map(layers: Sequence[tuple[str, str, float | None]]) -> Picture:
    """Both maps below each other, from (layer's name, format, SQNR in dB or None)."""
    return stacked(
        [
            format_map("Format by block and type", [(name, stored) for name, stored, _ in layers]),
            error_map("Error by block and type", [(name, db) for name, _, db in layers]),
        ]
    )


def layer_table(layers: Sequence[tuple[str, Value | None]]) -> Table[Value]:
    """Rows of types, columns of blocks, and how many layers are in no block. Names with a common prefix lose it."""
    placed: dict[str, dict[int, Value | None]] = {}
    outside = 0
    stacks = _stacks(name for name, _ in layers)
    for name, value in layers:
        parts = name.split(".")
        place = next((place for place, _ in enumerate(parts[:-1]) if tuple(parts[:place]) in stacks), None)
        if place is None or not parts[place].isdecimal() or len(parts[place]) > MOST_DIGITS:
            outside += 1
            continue
        row = ".".join([*parts[:place], NUMBER, *parts[place + 1 :]])
        placed.setdefault(row, {})[int(parts[place])] = value
    count = 1 + max((block for cells in placed.values() for block in cells), default=-1)
    common = _common([*placed])
    rows = [(kind[len(common) :], [cells.get(block) for block in range(count)]) for kind, cells in placed.items()]
    return rows, [str(block) for block in range(count)], outside


def _stacks(names: Iterable[str]) -> set[tuple[str, ...]]:
    """The parts of names before the number of a block, wherever a type has one."""
    found = set()
    for name, kind in kinds(names).items():
        parts, typed = name.split("."), kind.split(".")
        place = next((place for place, part in enumerate(typed) if part == NUMBER and parts[place] != NUMBER), None)
        if place is not None:
            found.add(tuple(parts[:place]))
    return found


def _common(rows: list[str]) -> str:
    """The whole parts that all names begin with: a key prefix such as ``model.diffusion_model.``."""
    parts = [row.split(".")[:-1] for row in rows]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1 or column[0] == NUMBER:
            break
        shared.append(column[0])
    # What stands right before the number names the stack and stays.
    if shared and parts and all(len(part) > len(shared) and part[len(shared)] == NUMBER for part in parts):
        shared.pop()
    return "".join(f"{part}." for part in shared)


def map_note(rows: Sequence[tuple[str, Sequence[object]]], outside: int) -> str:
    shown = sum(cell is not None for _, cells in rows for cell in cells)
    return f"{shown} layers in blocks" + (f"; {outside} outside of them are not shown" if outside else "")
