"""Tables of a README that a benchmark's result writes: each has its place between two markers."""

from __future__ import annotations

from pathlib import Path


def write_between(readme: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between the two markers of ``readme``.

    Raises:
        SystemExit: the markers are not there, once each and in order.
    """
    before, first, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, second, after = rest.partition(end)
    if not first or not second:
        raise SystemExit(f"{readme.name} has no place for the table: put {begin} and {end} where it belongs.")
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
