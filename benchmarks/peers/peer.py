"""What the benchmark knows of a converter: where it comes from, what it needs, how it is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LAYERS = "transformer_blocks"
"""Everybody converts the linear layers whose names start so, all to NVFP4, and nothing else."""


@dataclass(frozen=True)
class Installed:
    """A converter that can be started.

    python: the interpreter of its environment.
    clone: its source at the recorded commit; None for nvfp4-studio itself.
    scratch: a folder for a configuration file.
    """

    python: Path
    clone: Path | None
    scratch: Path

    def configuration(self, name: str, content: object) -> str:
        """Write a JSON file and return its path."""
        path = self.scratch / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)


Command = Callable[[Installed, Path, Path], list[str]]
"""From the installed converter, a source and a target to the arguments of a process."""


@dataclass(frozen=True)
class Peer:
    """One converter.

    repository, commit: public GitHub repository (owner/name) and the version that is compared; both empty for
        nvfp4-studio, which runs from this checkout.
    requirements: what its environment needs besides torch.
    variants: the ways of calling it, by the words of the table.
    sources: the folder of the clone that Python imports from.
    note: what a reader of the table must know.
    """

    name: str
    repository: str
    commit: str
    variants: Mapping[str, Command]
    requirements: tuple[str, ...] = ()
    sources: str = "."
    note: str = ""
