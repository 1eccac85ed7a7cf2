"""The house's one-way streets: web → routes → nodes → converters → calibration, cli → converters → calibration."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "folder_paths",
    "server",
    "nodes",
    "execution",
    "aiohttp",
}
ALLOWED = {
    "calibration": {"torch", "numpy", "safetensors"},
    "converters": {"torch", "numpy", "safetensors"},
}
MAY_USE = {
    "calibration": {"calibration"},
    "converters": {"calibration", "converters"},
    "cli": {"calibration", "converters", "cli", "demo"},
    "demo": {"calibration", "converters", "demo"},
    "nodes": {"calibration", "converters", "nodes"},
}


def _imports(path: Path) -> set[tuple[str, bool]]:
    """(first part of what is imported, whether it is one of our own packages) of every import in a file."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name.partition(".")[0], False) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(((node.module or "").partition(".")[0], False))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            if base:
                found.add((base[0], True))
            elif node.module:
                found.add((node.module.partition(".")[0], True))
            else:
                found |= {(alias.name, True) for alias in node.names if alias.name != "__version__"}
    return found


def _files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_USE)
def test_rooms_use_only_what_lies_below_them(room: str) -> None:
    assert _files(room)
    for path in _files(room):
        used = {name for name, own in _imports(path) if own and name in MAY_USE}
        assert used <= MAY_USE[room], f"{path.relative_to(ROOT)} imports {used - MAY_USE[room]}"


@pytest.mark.parametrize("room", ALLOWED)
def test_the_core_imports_torch_numpy_and_safetensors_only(room: str) -> None:
    for path in _files(room):
        allowed = set(ALLOWED[room]) | set(sys.stdlib_module_names)
        if path.parent.name == "formats":
            allowed.add("comfy_kitchen")
        if path.parent.name == "plots":
            allowed.add("PIL")
        foreign = {name for name, own in _imports(path) if not own} - allowed
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_only_the_nodes_import_comfyui() -> None:
    for room in MAY_USE.keys() - {"nodes"}:
        for path in _files(room):
            assert not {name for name, own in _imports(path) if not own} & (HOST - {"aiohttp"}), path


def test_importing_the_package_imports_neither_torch_nor_comfyui() -> None:
    code = "import sys, nvfp4_studio; print(sorted({'torch', 'comfy', 'folder_paths', 'server'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
