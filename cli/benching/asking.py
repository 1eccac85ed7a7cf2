"""What a comparison asks of a ComfyUI server beyond queueing: memory, hardware, pictures, a clean start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..servers.client import CHUNK, Server, require_up, translated
from ..servers.errors import JobFailed, ServerError

MAX_PICTURE = 256 << 20
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
                if answer.status != 200:
                    return None
                raw = await answer.content.read(CHUNK * 2)
        try:
            found = json.loads(json.loads(raw)[PROVENANCE])
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
                if answer.status != 200:
                    raise JobFailed(f"its picture {place['filename']} cannot be fetched: status {answer.status}.")
                raw = bytearray()
                async for chunk in answer.content.iter_chunked(CHUNK):
                    raw += chunk
                    if len(raw) > MAX_PICTURE:
                        raise JobFailed(f"its picture {place['filename']} has more than {MAX_PICTURE} bytes.")
                return bytes(raw)
