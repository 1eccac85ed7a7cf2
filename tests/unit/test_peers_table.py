"""The README's comparison with other converters is what the last result says, to the letter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = ROOT / "benchmarks" / "against_peers.py"
RESULT = ROOT / "benchmarks" / "results" / "peers.json"


def write_readme(readme: Path, result: Path = RESULT) -> subprocess.CompletedProcess[str]:
    arguments = ["--write-readme", "--readme", str(readme), "--json", str(result)]
    return subprocess.run([sys.executable, str(COMMAND), *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "README.md", tmp_path))


def test_readme_holds_the_table_of_the_last_result(readme: Path) -> None:
    done = write_readme(readme)
    assert done.returncode == 0, done.stderr
    assert readme.read_text("utf-8") == (ROOT / "README.md").read_text("utf-8")


def test_figures_follow_the_result(readme: Path, tmp_path: Path) -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    peer = next(entry for entry in result["converters"][1:] if "times_ours" in entry["variants"][0])
    peer["variants"][0]["times_ours"] = 123.4
    peer["variants"][0]["killed"] = {"half-way": "absent", "when the target's name appears": "broken"}
    peer["variants"][0]["scaled_fp8"] = {"layers": 14, "formats": {"nvfp4": 14}, "sqnr_db": -40.0, "gain": 0.01}
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(result), "utf-8")
    assert write_readme(readme, changed).returncode == 0
    row = next(line for line in readme.read_text("utf-8").splitlines() if "123.4×" in line)
    assert row.startswith(f"| {peer['name']} ")
    assert "**broken file**" in row and "**wrong**: weights 100 times too large" in row


def test_a_converter_that_did_not_run_is_named_with_its_reason(readme: Path, tmp_path: Path) -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    peer = result["converters"][1]
    del peer["variants"]
    peer["skipped"] = "pip: no matching distribution"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(result), "utf-8")
    assert write_readme(readme, changed).returncode == 0
    text = readme.read_text("utf-8")
    assert f"- {peer['name']} is missing: pip: no matching distribution." in text
    assert f"| {peer['name']} " not in text


def test_readme_without_a_place_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("# Nothing here\n", "utf-8")
    done = write_readme(readme)
    assert done.returncode != 0 and "has no place for the table" in done.stderr
    assert readme.read_text("utf-8") == "# Nothing here\n"


def test_results_name_no_folder_of_a_machine() -> None:
    text = RESULT.read_text("utf-8")
    assert not any(folder in text for folder in ("/tmp/", "/home/", "/root/", "/Users/"))
