"""Peaks of memory while a picture is made, as far as the server tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ..servers.errors import ServerError
from .asking import BenchServer

SAMPLE_SECONDS = 0.5
"""Between two looks. A peak that is shorter can be missed; looking more often would take time from a fast model."""

MOST = 1 << 60
"""Bytes; more is no memory."""

Peaks = dict[str, int]
"""Bytes: "vram" used of the first device by anybody, "torch" reserved of it by ComfyUI, "ram" used of the machine."""


@contextlib.asynccontextmanager
async def peaks_of(server: BenchServer) -> AsyncIterator[Peaks]:
    """Look while the block runs; the peaks are complete after it. Empty for what the server does not tell."""
    peaks: Peaks = {}

    async def look() -> None:
        while True:
            with contextlib.suppress(ServerError):  # whoever waits for the picture notices that the server is gone
                for name, value in used(await server.system_stats()).items():
                    peaks[name] = max(peaks.get(name, 0), value)
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        task.cancel()
        await asyncio.wait({task})  # and not the task itself, whose end by cancel would hide that this one is cancelled
        if not task.cancelled():
            task.result()


def used(stats: Mapping[str, Any]) -> Peaks:
    """From one answer of `/system_stats`. A CPU as device has no memory of its own."""
    found: Peaks = {}
    system, devices = stats.get("system"), stats.get("devices")
    device = devices[0] if isinstance(devices, list) and devices and isinstance(devices[0], dict) else {}
    if isinstance(system, dict):
        _add(found, "ram", system.get("ram_total"), system.get("ram_free"))
    if device.get("type") not in (None, "cpu"):
        _add(found, "vram", device.get("vram_total"), device.get("vram_free"))
        _add(found, "torch", device.get("torch_vram_total"), device.get("torch_vram_free"))
    return found


def _add(found: Peaks, name: str, total: object, free: object) -> None:
    if isinstance(total, int) and isinstance(free, int) and MOST > total >= free >= 0:
        found[name] = total - free
