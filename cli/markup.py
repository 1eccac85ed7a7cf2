"""Text of somebody else (file names, headers, answers of servers) in Markdown, where it stays text."""

from __future__ import annotations

import re

from .text import one_line

LONGEST = 4000
SPECIAL = re.compile(r"([\\`*<>\[\]#&~])")
"""What would begin a tag, a picture, a link, a heading or an entity. Underscores inside of names mean nothing."""


def prose(text: str) -> str:
    """One line that shows exactly these characters."""
    return SPECIAL.sub(r"\\\1", one_line(text, LONGEST))


def code(text: str) -> str:
    """The same as a code span, fenced by more backticks than the text has in a row."""
    plain = one_line(text, LONGEST)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if "`" in plain else f"`{plain}`"
