"""One-shot tokens: a conversion or measurement runs only for the prompt that the button queued.

NVFP4Convert and NVFP4Sensitivity are output nodes, so every ordinary Run executes them as well. The button asks the server for a
token, puts it into the one prompt that it queues, and the node spends it. A prompt that is run again from the
history carries a spent token and does nothing.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Any

TOKEN_INPUT = "conversion_token"
"""Key below the node's ``inputs`` in the prompt. It is not part of the node's schema, so no workflow stores it."""


class ConversionGate:
    """Gives out and takes back tokens, each valid once and for one node.

    At most ``capacity`` tokens wait at a time; the oldest is forgotten first, so that a client that asks for
    ever more of them costs no memory. 256 is far more than a queue that people fill by clicking.
    """

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._waiting: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, node_id: str) -> str:
        """A new token for the node with this execution id (``5``, or ``1:2:5`` inside subgraphs)."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._waiting[token] = node_id
            while len(self._waiting) > self._capacity:
                self._waiting.popitem(last=False)
        return token

    def spend(self, token: object, node_id: str) -> bool:
        """Whether the token was waiting for this node; it is spent either way."""
        if not isinstance(token, str):
            return False
        with self._lock:
            return self._waiting.pop(token, None) == node_id


def token_of(prompt: Any, node_id: str) -> object:
    """What a prompt holds where the button puts its token."""
    node = prompt.get(node_id) if isinstance(prompt, dict) else None
    return node.get("inputs", {}).get(TOKEN_INPUT) if isinstance(node, dict) else None


gate = ConversionGate()
"""The server's one gate: the route issues, the node spends."""
