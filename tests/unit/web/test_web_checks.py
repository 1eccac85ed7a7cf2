"""The scripts below ``web/``: what they import, that importing does nothing, ESLint, TypeScript, and their own tests."""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
WEB = ROOT / "web"
SCRIPTS = sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*.js"))
IMPORTED = re.compile(
    r"""(?:^import\b[^;"'()]*|^(?:export|\})[^;"'=()]*\bfrom\s+|\bimport\(\s*)["']([^"']+)["']""", re.MULTILINE
)
NODE = (20, 19)
"""The first Node that takes a .js file with imports for a module by itself, as a browser does."""


def node() -> str:
    """Node, or a skip that says why not."""
    found = shutil.which("node")
    if not found:
        pytest.skip("no node: install Node.js to check the browser scripts")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.lstrip("v").split(".")[:2]) < NODE:
        pytest.skip(f"node {version} is older than {'.'.join(map(str, NODE))}, which the browser scripts' tests need")
    return found


def npm_script(name: str) -> subprocess.CompletedProcess[str]:
    """A script of package.json, where its packages are installed."""
    node()
    npm = shutil.which("npm")
    if not npm or not (HERE / "node_modules").is_dir():
        pytest.skip("no ESLint and TypeScript: cd tests/unit/web && npm install")
    return subprocess.run([npm, "run", "--silent", name], cwd=HERE, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import_their_own_files_and_two_of_the_frontend(script: str) -> None:
    text = (WEB / script).read_text("utf-8")
    # The server has web/ at /extensions/<pack>/, so the frontend's /scripts/ lies two folders above it.
    folder = posixpath.dirname(f"/extensions/pack/{script}")
    imported = [posixpath.normpath(posixpath.join(folder, name)) for name in IMPORTED.findall(text)]
    own = {f"/extensions/pack/{name}" for name in SCRIPTS}
    assert [path for path in imported if path not in own | {"/scripts/app.js", "/scripts/api.js"}] == []
    assert not re.search(r"\bimport\s*\((?!\s*[\"'])|\bimportScripts\b|\beval\s*\(|\bnew Function\b", text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_name_no_other_server(script: str) -> None:
    addresses = re.findall(r"""(?:https?:)?//[\w-]+(?:\.[\w-]+)+[^\s"'`)]*""", (WEB / script).read_text("utf-8"))
    assert [found for found in addresses if "://www.w3.org/" not in found] == []


def test_the_scripts_own_tests_pass() -> None:
    done = subprocess.run([node(), "--test"], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", ["lint", "types"])
def test_eslint_and_typescript_have_no_complaint(name: str) -> None:
    done = npm_script(name)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
