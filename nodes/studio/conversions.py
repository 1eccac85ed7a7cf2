"""Step 4: conversions that run, wait, ended or were interrupted. They run in ComfyUI's own prompt queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import host
from ..gate import TOKEN_INPUT
from .board import Board
from .interrupted import interrupted

NODE = "NVFP4Convert"
board = Board(lambda entry: host.send(host.CONVERSION_EVENT, entry), (host.Interrupted,))
"""The server's one board: the node writes on it, the routes read it."""


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """Every conversion that a page should show."""
    running = board.running()
    busy = {(entry["prompt_id"], entry["node"]) for entry in running}
    ended = {(entry["prompt_id"], entry["node"]) for entry in board.finished()}
    return {
        "running": running,
        "queued": [entry for entry in _queued() if (entry["prompt_id"], entry["node"]) not in busy | ended],
        "finished": board.finished(),
        "interrupted": interrupted({entry["target"] for entry in running}),
    }


def _queued() -> Iterator[dict[str, Any]]:
    """Convert nodes of prompts that wait, or run but have not come to this node yet; ordinary Runs have no token."""
    for number, prompt_id, prompt, _, outputs, *_ in host.queued_prompts():
        for node, content in prompt.items():
            inputs = content.get("inputs", {})
            if content.get("class_type") == NODE and node in outputs and TOKEN_INPUT in inputs:
                yield {
                    "prompt_id": prompt_id,
                    "node": node,
                    "number": number,
                    "source": inputs.get("source"),
                    "output_name": inputs.get("output_name"),
                }
