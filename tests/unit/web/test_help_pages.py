"""The nodes' help pages, which the frontend asks for by node and language."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "web" / "docs"
LANGUAGES = ("fr", "zh", "ja")
"""Those of the pack that ComfyUI's frontend has too: it asks for ``<node>/<language>.md`` first, and has no German."""


def texts(language: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))
    return found


NODES = texts("en")


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_page_with_a_picture_and_all_inputs(node: str) -> None:
    page = (DOCS / f"{node}.md").read_text("utf-8")
    assert page.startswith(f"# {NODES[node]['display_name']}\n")
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)
    assert pictures and [path for _, path in pictures if not (DOCS / path).is_file()] == []
    assert [name for name in NODES[node]["inputs"] if f"| {name} |" not in page] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_translated_pages_say_as_much_and_name_the_inputs_as_the_node_does(node: str, language: str) -> None:
    english = (DOCS / f"{node}.md").read_text("utf-8")
    page = (DOCS / node / f"{language}.md").read_text("utf-8")
    entry = texts(language)[node]
    assert page.startswith(f"# {entry['display_name']}\n")
    assert [value["name"] for value in entry["inputs"].values() if f"| {value['name']} |" not in page] == []
    assert re.findall(r"\(img/[^)]+\)", page) == re.findall(r"\(img/[^)]+\)", english)
    for mark in ("## ", "|", "- "):
        assert count(page, mark) == count(english, mark), mark


def count(page: str, mark: str) -> int:
    return sum(line.startswith(mark) for line in page.splitlines())


def test_every_page_and_picture_is_of_use() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")}
    text = "".join(path.read_text("utf-8") for path in [*DOCS.rglob("*.md"), ROOT / "README.md"])
    assert pages == set(NODES)
    assert [path.name for path in (DOCS / "img").iterdir() if f"img/{path.name}" not in text] == []
