"""Step 4: conversions that run, wait, ended or were interrupted, and measurements that run or wait.

They run in ComfyUI's own prompt queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import host
from ..gate import TOKEN_INPUT
from .board import Board
from .interrupted import interrupted

NODE = "NVFP4Convert"
MEASURING_NODE = "NVFP4Sensitivity"
NAMED = {NODE: ("source", "output_name"), MEASURING_NODE: ("source", "calibration", "name")}
"""What a page is told of a node that waits or runs."""
board = Board(lambda entry: host.send(host.CONVERSION_EVENT, entry), (host.Interrupted,))
"""The server's one board: the node writes on it, the routes read it."""


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """Every conversion and every measurement that a page should show."""
    running = board.running()
    busy = {(entry["prompt_id"], entry["node"]) for entry in running}
    ended = {(entry["prompt_id"], entry["node"]) for entry in board.finished()}
    return {
        "running": running,
        "queued": [entry for entry in _asked(NODE) if (entry["prompt_id"], entry["node"]) not in busy | ended],
        "finished": board.finished(),
        "interrupted": interrupted({entry["target"] for entry in running}),
        "measuring": list(_asked(MEASURING_NODE)),
    }


def _asked(kind: str) -> Iterator[dict[str, Any]]:
    """Nodes of this class whose button was pressed, in prompts that run or wait, the first first; ordinary Runs have
    no token."""
    for number, prompt_id, prompt, _, outputs, *_ in host.queued_prompts():
        for node, content in prompt.items():
            inputs = content.get("inputs", {})
            if content.get("class_type") == kind and node in outputs and TOKEN_INPUT in inputs:
                names = {name: inputs.get(name) for name in NAMED[kind]}
                yield {"prompt_id": prompt_id, "node": node, "number": number, **names}
