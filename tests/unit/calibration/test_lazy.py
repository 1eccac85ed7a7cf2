"""Packages that import late export what they always did, and nothing is imported before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("calibration", "converters", "converters.plots", "converters.sensitivity")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_export_is_there_and_typed(package: str) -> None:
    module = import_module(f"nvfp4_studio.{package}")
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module != "lazy"
        for alias in node.names
    }
    assert typed == set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name).__class__.__name__ != "module" for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = module.absent


def test_a_function_called_as_its_module_stays_the_function() -> None:
    script = (
        "import nvfp4_studio.converters.verify\n"
        "from nvfp4_studio.converters import convert, verify, writer\n"
        "assert callable(convert) and callable(verify) and not callable(writer)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_importing_a_package_imports_none_of_its_modules() -> None:
    script = (
        "import sys, nvfp4_studio.converters\n"
        "print(sorted(name for name in sys.modules if name.startswith('nvfp4_studio.')))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert ast.literal_eval(done.stdout) == [
        "nvfp4_studio.calibration",
        "nvfp4_studio.calibration.lazy",
        "nvfp4_studio.converters",
    ]
