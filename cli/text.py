"""Numbers for people, and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..calibration import Section

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes in powers of 1000, as disks are sold: "27.1 GB"."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """ "7 s", "3:05", "1:02:07"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def decibels(value: float | None) -> str:
    """An SQNR, "identical" for None."""
    return "identical" if value is None else f"{value:.1f} dB"


def one_line(text: str, limit: int = 400) -> str:
    """Text of somebody else made fit for a terminal: one line, printable, bounded."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= limit else f"{plain[:limit]}…"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns set apart by two spaces, numbers right-aligned; "" without rows."""
    if not rows:
        return ""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (list(head), *cells)) for column in range(len(head))]
    numeric = [all(isinstance(row[column], (int, float)) for row in rows) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join(line(row) for row in (list(head), *cells))


def words(sections: Sequence[Section]) -> str:
    """A report for a terminal: sentences and columns; the first section goes without its title."""
    return "\n\n".join(_section(section, first=section is sections[0]) for section in sections)


def _section(section: Section, *, first: bool) -> str:
    title = [] if first else [section.title.upper()]
    rows = [table(section.head, section.rows)] if section.rows else []
    return "\n".join([*title, *section.lines, *rows])
