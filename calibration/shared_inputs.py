"""Recognises an input that has just been measured, so that q, k and v cost one observation."""

from __future__ import annotations

import weakref
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


class SharedInputs:
    """The last few inputs of one model evaluation with what was measured of them.

    Inputs are held weakly: remembering one neither keeps its memory nor mistakes a new tensor at the same
    address for it. A tensor's version counter tells whether it was written to in between. Tensors made in
    inference mode have none, so there a match also needs layers of the same parent module ("attn.to_q",
    "attn.to_k"): between those nothing writes to the input they share, while a residual stream that is
    updated in place may well reach layers of different blocks as the same object.

    together: how many observations are handed on at a time. Between two layers the model has driven our code
    out of the processor's caches, where summing sixty-four calls in a row finds it again.
    """

    def __init__(self, together: int = 1) -> None:
        self._entries: dict[int, _Entry] = {}
        self._observations: list[Observation] = []
        self._most = together + _REMEMBERED
        self._gathered = 0

    def find(self, values: torch.Tensor, layer: str) -> _Entry | None:
        """The entry of this very input, with its `observation`, when it has just been measured."""
        entry = self._entries.get(id(values))
        if entry is None or entry.reference() is not values:
            return None
        version = _version(values)
        same = entry.version == version and (version is not None or _parent(entry.layer) == _parent(layer))
        return entry if same else None

    def remember(self, values: torch.Tensor, layer: str, observation: Observation | None) -> list[Observation]:
        """Keep what was measured of an input; returns observations that no further layer can have a part in, or none yet."""
        entries = self._entries
        entries.pop(id(values), None)
        entries[id(values)] = _Entry(weakref.ref(values), _version(values), layer, observation)
        if len(entries) > _REMEMBERED:
            del entries[next(iter(entries))]
        if observation is None:
            return []
        self._observations.append(observation)
        self._gathered += observation.sample.numel()
        if len(self._observations) < self._most and self._gathered < _GATHERED:
            return []
        forgotten, self._observations = self._observations[:-_REMEMBERED], self._observations[-_REMEMBERED:]
        self._gathered = 0
        return forgotten

    def rest(self) -> list[Observation]:
        """Forget everything, and return the observations that were not handed on yet."""
        left, self._observations = self._observations, []
        self._entries.clear()
        return left


def _version(values: torch.Tensor) -> int | None:
    return None if values.is_inference() else values._version


def _parent(layer: str) -> str:
    return layer.rpartition(".")[0]
