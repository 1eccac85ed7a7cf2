"""What the registry's archive leaves out: everything that only developers need, and nothing that the pack needs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IGNORED = {line.strip("/") for line in (ROOT / ".comfyignore").read_text("utf-8").split()}
DEVELOPERS = {".ci", ".github", ".pre-commit-config.yaml", "benchmarks", "tests", "CONTRIBUTING.md"}


def test_developers_files_stay_out() -> None:
    assert IGNORED == DEVELOPERS


def test_the_readme_leads_nowhere_that_is_left_out() -> None:
    linked = re.findall(r"\]\(([^)#:]+)[^)]*\)", (ROOT / "README.md").read_text("utf-8"))
    relative = [path for path in linked if not path.startswith("http")]
    assert relative and [path for path in relative if path.split("/")[0] in IGNORED or not (ROOT / path).exists()] == []


def test_the_package_and_what_the_browser_loads_stay_in() -> None:
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert listed
    packages = set(re.findall(r'"nvfp4_studio\.(\w+)', listed[1]))
    needed = packages | {"web", "locales", "example_workflows", "__init__.py", "pyproject.toml", "README.md", "LICENSE"}
    assert not needed & IGNORED
    assert all((ROOT / name).exists() for name in needed)
