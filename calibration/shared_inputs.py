"""Recognises an input that has just been measured, so that q, k and v cost one observation."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass

import torch

from .observers import Observation

_REMEMBERED = 8
"""Inputs remembered at a time; layers that share one follow each other closely."""
_GATHERED = 1 << 20
"""Sampled values that may wait, which bounds what waiting costs to 4 MiB and the last eight inputs' samples."""


@dataclass(slots=True)
class _Entry:
    reference: weakref.ref[torch.Tensor]
    version: int | None
    layer: str
    observation: Observation | None

    def shared_with(self, layer: str) -> bool:
        """Whether `layer` stands beside the one that was measured, and was not given this input before."""
        return _parent(self.layer) == _parent(layer) and (
            self.observation is None or layer not in self.observation.layers
        )


class SharedInputs:
    """The last few inputs of one model evaluation with what was measured of them.

    Inputs are held weakly: remembering one neither keeps its memory nor mistakes a new tensor at the same
    address for it. A tensor's version counter tells whether it was written to in between. Tensors made in
    inference mode have none, so there a match also needs layers of the same parent module ("attn.to_q",
    "attn.to_k"), each called once: between those nothing is known to write to the input they share, while
    a residual stream that is updated in place may well reach layers of different blocks as the same object. A
    module that did would be measured before it wrote.

    together: how many observations are handed on at a time. Between two layers the model has driven our code
    out of the processor's caches, where summing sixty-four calls in a row finds it again.
    """

    def __init__(self, together: int = 1) -> None:
        self._entries: deque[_Entry] = deque()
        self._complete: list[Observation] = []
        self._together = together
        self._gathered = 0

    def find(self, values: torch.Tensor, layer: str) -> _Entry | None:
        """The entry of this very input, with its `observation`, when it has just been measured."""
        for entry in reversed(self._entries):
            if entry.reference() is values:
                version = _version(values)
                if entry.version == version and (version is not None or entry.shared_with(layer)):
                    return entry
        return None

    def remember(self, values: torch.Tensor, layer: str, observation: Observation | None) -> list[Observation]:
        """Keep what was measured of an input until eight newer ones have come.

        Returns observations that no further layer can have a part in, or none yet.
        """
        self._entries.append(_Entry(weakref.ref(values), _version(values), layer, observation))
        if len(self._entries) > _REMEMBERED:
            forgotten = self._entries.popleft().observation
            if forgotten is not None:
                self._complete.append(forgotten)
                self._gathered += forgotten.sample.numel()
        if len(self._complete) < self._together and self._gathered < _GATHERED:
            return []
        return self._handed_on()

    def rest(self) -> list[Observation]:
        """Forget everything, and return the observations that were not handed on yet."""
        left = [entry.observation for entry in self._entries if entry.observation is not None]
        self._entries.clear()
        return [*self._handed_on(), *left]

    def _handed_on(self) -> list[Observation]:
        complete, self._complete, self._gathered = self._complete, [], 0
        return complete


def _version(values: torch.Tensor) -> int | None:
    return None if values.is_inference() else values._version


def _parent(layer: str) -> str:
    return layer.rpartition(".")[0]
