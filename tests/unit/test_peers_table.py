"""The comparison with other converters is what the last result says, to the letter: the table, and the README's sentences."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = ROOT / "benchmarks" / "against_peers.py"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
RESULT = ROOT / "benchmarks" / "results" / "peers.json"


def write_readmes(pages: list[Path], result: Path = RESULT) -> subprocess.CompletedProcess[str]:
    arguments = ["--write-readme", "--readme", *map(str, pages), "--json", str(result)]
    return subprocess.run([sys.executable, str(COMMAND), *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    """Copies of the README, which has the sentences, and of the benchmarks' page, which has the table."""
    return [Path(shutil.copy(page, tmp_path / f"{page.parent.name}.md")) for page in PAGES]


def test_the_pages_hold_the_last_result(pages: list[Path]) -> None:
    done = write_readmes(pages)
    assert done.returncode == 0, done.stderr
    assert [page.read_text("utf-8") for page in pages] == [page.read_text("utf-8") for page in PAGES]


def test_figures_follow_the_result(pages: list[Path], tmp_path: Path) -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    peer = next(entry for entry in result["converters"][1:] if "times_ours" in entry["variants"][0])
    peer["variants"][0].update(times_ours=123.4, peak_mb=77 * result["converters"][0]["variants"][0]["peak_mb"])
    peer["variants"][0]["killed"] = {"half-way": "absent", "when the target's name appears": "broken"}
    peer["variants"][0]["scaled_fp8"] = {"layers": 14, "formats": {"nvfp4": 14}, "sqnr_db": -40.0, "gain": 0.01}
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(result), "utf-8")
    assert write_readmes(pages, changed).returncode == 0
    sentences, table = (page.read_text("utf-8") for page in pages)
    assert f"{peer['name']} 123.4" in sentences and "to 77 times our" in sentences
    row = next(line for line in table.splitlines() if "123.4×" in line)
    assert row.startswith(f"| {peer['name']} ")
    assert "**broken file**" in row and "**wrong**: weights 100 times too large" in row


def test_a_converter_that_did_not_run_is_named_with_its_reason(pages: list[Path], tmp_path: Path) -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    peer = result["converters"][1]
    del peer["variants"]
    peer["skipped"] = "pip: no matching distribution"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(result), "utf-8")
    assert write_readmes(pages, changed).returncode == 0
    sentences, table = (page.read_text("utf-8") for page in pages)
    assert f"- {peer['name']} is missing: pip: no matching distribution." in table
    assert f"| {peer['name']} {peer['commit'][:7]}, " not in table and peer["name"] not in sentences
    result["converters"][1:] = [{**entry, "skipped": "x", "variants": [{}]} for entry in result["converters"][1:]]
    changed.write_text(json.dumps(result), "utf-8")
    assert write_readmes(pages, changed).returncode == 0
    assert "None of the other converters could be run" in pages[0].read_text("utf-8")


def test_readme_without_a_place_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Nothing here\n", "utf-8")
    done = write_readmes([readme])
    assert done.returncode != 0 and "has no place for the table" in done.stderr
    assert readme.read_text("utf-8") == "# Nothing here\n"


def test_results_name_no_folder_of_a_machine() -> None:
    text = RESULT.read_text("utf-8")
    assert not any(folder in text for folder in ("/tmp/", "/home/", "/root/", "/Users/"))
