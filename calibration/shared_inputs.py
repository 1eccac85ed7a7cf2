"""Recognises an input that has just been measured, so that q, k and v cost one observation."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass

import torch

from .observers import Observation

_REMEMBERED = 8
"""Inputs remembered at a time; layers that share one follow each other closely."""


@dataclass(slots=True)
class _Entry:
    reference: weakref.ref[torch.Tensor]
    version: int | None
    parent: str
    observation: Observation | None


class SharedInputs:
    """The last few inputs of one model evaluation with what was measured of them.

    Inputs are held weakly: remembering one neither keeps its memory nor mistakes a new tensor at the same
    address for it. A tensor's version counter tells whether it was written to in between. Tensors made in
    inference mode have none, so there a match also needs layers of the same parent module ("attn.to_q",
    "attn.to_k"): between those nothing writes to the input they share, while a residual stream that is
    updated in place may well reach layers of different blocks as the same object.
    """

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()

    def find(self, values: torch.Tensor, layer: str) -> tuple[bool, Observation | None]:
        """(True, its observation) when this very input has been measured before, else (False, None)."""
        for entry in reversed(self._entries):
            if entry.reference() is values:
                version = _version(values)
                if entry.version == version and (version is not None or entry.parent == _parent(layer)):
                    return True, entry.observation
        return False, None

    def remember(self, values: torch.Tensor, layer: str, observation: Observation | None) -> Observation | None:
        """Keep what was measured of an input until eight newer ones have come; returns the one forgotten."""
        self._entries.append(_Entry(weakref.ref(values), _version(values), _parent(layer), observation))
        return self._entries.popleft().observation if len(self._entries) > _REMEMBERED else None

    def rest(self) -> list[Observation]:
        """Forget everything, and return the observations that were still remembered."""
        left = [entry.observation for entry in self._entries if entry.observation is not None]
        self._entries.clear()
        return left


def _version(values: torch.Tensor) -> int | None:
    return None if values.is_inference() else values._version


def _parent(layer: str) -> str:
    return layer.rpartition(".")[0]
