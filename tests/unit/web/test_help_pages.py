"""The nodes' help pages, which the frontend asks for by node and language."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "web" / "docs"
NODES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_page_with_a_picture_and_all_inputs(node: str) -> None:
    page = (DOCS / f"{node}.md").read_text("utf-8")
    assert page.startswith(f"# {NODES[node]['display_name']}\n")
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)
    assert pictures and [path for _, path in pictures if not (DOCS / path).is_file()] == []
    assert [name for name in NODES[node]["inputs"] if f"| {name} |" not in page] == []


def test_every_page_and_picture_is_of_use() -> None:
    pages = {path.stem for path in DOCS.glob("*.md")}
    text = "".join(path.read_text("utf-8") for path in [*DOCS.rglob("*.md"), ROOT / "README.md"])
    assert pages == set(NODES)
    assert [path.name for path in (DOCS / "img").iterdir() if f"img/{path.name}" not in text] == []
