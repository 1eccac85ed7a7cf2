"""Which nvfp4-studio a server has: servers that work together must have the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .client import Server
from .errors import ServerError
from .insertion import CALIBRATE


@dataclass(frozen=True)
class Pack:
    """Version of the pack, and the inputs of its NVFP4Calibrate as the server declares them."""

    version: str
    inputs: Any


async def described_pack(server: Server) -> Pack:
    """Ask the server. Raises ServerError when it has no nvfp4-studio, or one that cannot do this."""
    info = await server.node(CALIBRATE)
    if info is None:
        raise ServerError(f"{server.name} has no node {CALIBRATE}: install nvfp4-studio in its custom_nodes.")
    version, _ = await server.calibrations()
    return Pack(version, info.get("input"))


async def require_same(server: Server, reference: tuple[Server, Pack]) -> None:
    """Raises ServerError unless the server has the pack of the reference."""
    check_same(server, await described_pack(server), reference)


def check_same(server: Server, pack: Pack, reference: tuple[Server, Pack]) -> None:
    """Raises ServerError when two servers' packs differ, so that their statistics may mean different things."""
    other, known = reference
    if pack.version != known.version:
        raise ServerError(
            f"{other.name} has nvfp4-studio {known.version} and {server.name} has {pack.version}: install the same "
            "version on both."
        )
    if pack.inputs != known.inputs:
        raise ServerError(
            f"{other.name} and {server.name} have different {CALIBRATE} nodes: install the same nvfp4-studio on both."
        )
