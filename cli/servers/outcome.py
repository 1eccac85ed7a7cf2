"""How a queued prompt ended: heard over the websocket, and looked up when nothing is heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..text import one_line
from .client import Server
from .errors import JobFailed

CHECK_SECONDS = 10
"""How often a prompt is looked up, in case a message was lost or someone emptied the queue."""

PAUSE_SECONDS = 0.2
FAILED = ("execution_error", "execution_interrupted")


async def success(server: Server, prompt_id: str, progress: Callable[[object, object], None]) -> None:
    """Wait until the prompt has succeeded; progress(value, limit) is told the steps of the sampler.

    Raises JobFailed when it ends otherwise, Unreachable when the server is gone.
    """
    checked = time.monotonic()
    while True:
        event = await server.receive(CHECK_SECONDS)
        if event is None or time.monotonic() - checked > CHECK_SECONDS:
            if await _has_succeeded(server, prompt_id):
                return
            checked = time.monotonic()
            await asyncio.sleep(PAUSE_SECONDS)
        kind, data = event or ("", {})
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "progress":
            progress(data.get("value"), data.get("max"))
        elif kind == "execution_success":
            return
        elif kind in FAILED:
            raise JobFailed(_reason(kind, data))


async def _has_succeeded(server: Server, prompt_id: str) -> bool:
    """Look the prompt up: True, or False while it waits or runs. Raises JobFailed when it ended otherwise."""
    waiting = prompt_id in await server.queued()
    entry = await server.ended(prompt_id)  # after the queue: what left it meanwhile is here
    if entry is None:
        if waiting:
            return False
        raise JobFailed("it vanished from the server's queue without a result.")
    status = entry.get("status")
    if isinstance(status, dict) and status.get("status_str") == "success":
        return True
    for message in status.get("messages", ()) if isinstance(status, dict) else ():
        if isinstance(message, list) and len(message) == 2 and message[0] in FAILED and isinstance(message[1], dict):
            raise JobFailed(_reason(message[0], message[1]))
    raise JobFailed("it ended without success and without a reason.")


def _reason(kind: str, data: Mapping[str, Any]) -> str:
    if kind == "execution_interrupted":
        return "it was cancelled on the server."
    said = one_line(str(data.get("exception_message", "")))
    return f"{one_line(str(data.get('node_type', 'a node')), 80)} (node {one_line(str(data.get('node_id', '?')), 40)}) failed: {said}"
