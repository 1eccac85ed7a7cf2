"""What a checkpoint's layers are, whatever is planned for them: block, type, and the formats that each can have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...converters import Options, Source
from ...converters.formats import POLICIES
from ...converters.planning.decide import context_of
from ...converters.planning.obstacles import obstacle
from .cache import FileCache


@dataclass(frozen=True)
class Part:
    """One layer of the diffusion model.

    ``block``: ``transformer_blocks.3``, "" outside of the repeated blocks; ``kind``: what is left of its name.
    ``allowed``: policies that it can be pinned to.
    """

    block: str
    kind: str
    allowed: tuple[str, ...]


_BLOCK = re.compile(r"((?:[A-Za-z_]\w*\.)+?\d+)\.(.+)")
_anatomies: FileCache[dict[str, Part]] = FileCache(8)


def anatomy(source: str, checkpoint: Source) -> dict[str, Part]:
    """Module -> part, for every layer of the diffusion model; ``source`` is the checkpoint's id."""

    def read() -> tuple[dict[str, Part], Iterable[Path]]:
        return _parts(checkpoint), (checkpoint.path, *checkpoint.files)

    return _anatomies.get(source, read)


def _parts(checkpoint: Source) -> dict[str, Part]:
    context = context_of(checkpoint, Options(), None)
    found = {}
    for layer in context.recognised.layers.values():
        if context.part(layer.weight) == "diffusion_model":
            module = context.module(layer)
            allowed = (policy for policy in POLICIES if obstacle(context, layer, policy) is None)
            found[module] = Part(*place(module), ("keep", *allowed))
    return found


def place(module: str) -> tuple[str, str]:
    """Block and type of a layer: ``blocks.3.attn.q`` -> ``blocks.3``, ``attn.q``; outside of blocks "" and its name."""
    match = _BLOCK.fullmatch(module)
    return (match[1], match[2]) if match else ("", module)
