"""Layers in their stored form, from a file or as they were just encoded, and the decoding of either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .formats import FORMATS, Fields, Rows
from .layers import SourceLayer, todays_name
from .source import Source


@dataclass(frozen=True)
class InFile:
    """One layer of a file, read back piece by piece (``formats.Stored``)."""

    source: Source
    layer: SourceLayer
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def fields(self) -> Fields:
        return self.layer.tag or {}

    def rows(self, first: int, last: int) -> torch.Tensor:
        return self.source.read_rows(self.layer.weight, first, last)

    def tensor(self, suffix: str) -> torch.Tensor | None:
        names = (name for name in self.layer.companions if todays_name(name) == f"{self.name}.{suffix}")
        found = next(names, None)
        return self.source.read(found) if found else None


@dataclass(frozen=True)
class Encoded:
    """One layer that was encoded a moment ago (``formats.Stored``)."""

    name: str
    shape: tuple[int, int]
    fields: Fields
    tensors: Mapping[str, torch.Tensor]

    def rows(self, first: int, last: int) -> torch.Tensor:
        return self.tensors["weight"][first:last]

    def tensor(self, suffix: str) -> torch.Tensor | None:
        return self.tensors.get(suffix)


def decoder(source: Source, layer: SourceLayer, shape: tuple[int, int]) -> Rows:
    """What returns float32 rows of a layer of any format."""
    if layer.format in FORMATS:
        return FORMATS[layer.format].decoder(InFile(source, layer, shape))
    return lambda first, last: source.read_rows(layer.weight, first, last).float()
