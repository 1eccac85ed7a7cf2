"""A report as a page: sections of sentences and tables, which a terminal and Markdown show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """lines: sentences in front of the table. head, rows: the table, columns by name; both empty without one."""

    title: str
    lines: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page in Markdown, ending with a line feed."""
    parts = [f"# {title}", ""]
    for section in sections:
        parts += [f"## {section.title}", ""]
        if section.lines:
            parts += [*(f"- {line}" for line in section.lines), ""]
        if section.rows:
            parts += [_row(section.head), "|" + "---|" * len(section.head), *(_row(row) for row in section.rows), ""]
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def number(value: float | None, digits: int = 4) -> str:
    """So many significant digits, a dash for None: "3136", "0.0182", "157500", "1.2e+06"."""
    return "-" if value is None else f"{float(f'{value:.{digits}g}'):g}"


def decibels(value: float | None) -> str:
    """An SQNR with one decimal, a dash for None."""
    return "-" if value is None else f"{value:.1f} dB"


def share(value: float | None) -> str:
    """A rate in percent, three significant digits: "0", "0.0981%", "93.5%"; a dash for None."""
    if value is None:
        return "-"
    return f"{100 * value:.3g}%" if value else "0"


def counted(amount: int, noun: str) -> str:
    """ "1 layer", "20 layers"."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"
