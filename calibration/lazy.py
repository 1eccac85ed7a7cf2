"""Packages that import what they export when it is asked for.

ComfyUI imports every node pack before its page opens, and a pack that is not used should cost next to nothing then.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def exports(package: str, names: Mapping[str, tuple[str, ...]]) -> None:
    """Let a package give names from its submodules without importing them beforehand.

    Args:
        package: its ``__name__``.
        names: submodule -> what it exports. A function may be called as its submodule: the name then means the function.
    """
    homes = {name: submodule for submodule, exported in names.items() for name in exported}

    class Package(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name not in homes:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            value = getattr(import_module(f".{homes[name]}", package), name)
            super().__setattr__(name, value)
            return value

        def __setattr__(self, name: str, value: Any) -> None:
            # An import hangs the submodule on its package, where an exported function of that name must stay.
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *homes})

    sys.modules[package].__class__ = Package
