"""What a comparison asks of a ComfyUI server beyond queueing: memory, hardware, pictures, a clean start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from ..servers.client import CHUNK, Server, require_up, translated
from ..servers.errors import JobFailed, ServerError
from ..text import one_line

MAX_PICTURE = 256 << 20
MAX_HEADER = 16 << 20
"""ComfyUI reads headers of up to 1 MiB; as JSON in JSON they take more."""

HARDWARE = "nvfp4_studio/hardware"
PROVENANCE = "nvfp4_studio"
"""Key of the header metadata in which a conversion says how the file was made."""


class BenchServer(Server):
    """A server with these questions too."""

    async def __aenter__(self) -> BenchServer:
        await super().__aenter__()
        return self

    async def system_stats(self) -> Mapping[str, Any]:
        """ComfyUI's `/system_stats`: versions, and memory of the machine and its devices in bytes."""
        found = await self._json("GET", "system_stats")
        if not isinstance(found, dict) or not isinstance(found.get("devices"), list):
            raise ServerError(f"{self.name}/system_stats tells no devices: is this a ComfyUI?")
        return found

    async def hardware(self) -> Mapping[str, Any] | None:
        """What the pack on the server says of its devices, None where it is not installed or older."""
        with translated(self.name):
            async with self._asked().get(self._at(HARDWARE)) as answer:
                require_up(self.name, answer.status)
                if answer.status != 200:
                    return None
        found = await self._json("GET", HARDWARE)
        return found if isinstance(found, dict) and isinstance(found.get("devices"), list) else None

    async def provenance(self, folder: str, name: str) -> dict[str, Any] | None:
        """How nvfp4-studio made a model of the server, by the file's own header; None for other files."""
        with translated(self.name):
            address = self._at(f"view_metadata/{folder}").with_query(filename=name)
            async with self._asked().get(address) as answer:
                require_up(self.name, answer.status)
                raw = await _read(answer, MAX_HEADER) if answer.status == 200 else None
        if raw is None:
            return None
        try:
            found = json.loads(json.loads(raw)[PROVENANCE], parse_constant=_no_number)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    async def free(self) -> None:
        """Ask the server to unload all models and to forget all results; done before its next prompt, soon after."""
        with translated(self.name):
            body = {"unload_models": True, "free_memory": True}
            async with self._asked().post(self._at("free"), json=body) as answer:
                require_up(self.name, answer.status)
                if answer.status != 200:
                    raise ServerError(f"{self.name}/free answered {answer.status}: update ComfyUI there.")

    async def picture(self, place: Mapping[str, str]) -> bytes:
        """The bytes of an output file, named as the history names it: filename, subfolder, type."""
        with translated(self.name):
            async with self._asked().get(self._at("view").with_query(dict(place))) as answer:
                require_up(self.name, answer.status)
                name = one_line(place["filename"], 80)
                if answer.status != 200:
                    raise JobFailed(f"its picture {name} cannot be fetched: status {answer.status}.")
                raw = await _read(answer, MAX_PICTURE)
                if raw is None:
                    raise JobFailed(f"its picture {name} has more than {MAX_PICTURE} bytes.")
                return raw


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The whole body, however many pieces it comes in; None when it has more bytes than `most`."""
    raw = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK):
        raw += chunk
        if len(raw) > most:
            return None
    return bytes(raw)


def _no_number(name: str) -> None:
    """JSON has no NaN and no infinity; what Python reads as such could not be written again."""
    raise ValueError(name)
