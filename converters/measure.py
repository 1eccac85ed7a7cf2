"""How far the weights of a converted layer are from the source's, both as ComfyUI would compute with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .errors import Cancelled
from .formats import FORMATS, Fields, Rows
from .layers import SourceLayer, todays_name
from .source import Source

WEIGHTS_AT_ONCE = 1 << 19
"""Weights compared at once: a few temporaries of 2 MiB."""
RUN = 1024


@dataclass(frozen=True)
class LayerError:
    """Distance of one layer's weights from the source's, both as ComfyUI would compute with them.

    ``sqnr_db`` is ``10·log10(Σw² / Σ(w−q)²)``, ``rel_rmse`` its root form ``√(Σ(w−q)² / Σw²)``,
    ``cosine`` that of the angle between the weights; ``identical`` means no difference (SQNR None).
    """

    name: str
    source_format: str
    format: str
    identical: bool
    sqnr_db: float | None
    rel_rmse: float
    cosine: float


@dataclass(frozen=True)
class _InFile:
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


def measure(
    source: Source, before: SourceLayer, converted: Source, after: SourceLayer, cancelled: Callable[[], bool]
) -> LayerError:
    """Compare one layer of two files.

    Args:
        before: the layer of ``source``; its shape is the weight's.
        after: the layer of ``converted``, whose storage was found sound.
        cancelled: asked between pieces; True raises ``Cancelled``.
    """
    if before.format == after.format and _same_storage(source, before, converted, after):
        return LayerError(after.name, before.format, after.format, True, None, 0.0, 1.0)
    if after.format not in FORMATS or not (before.is_fp8 or before.is_plain):
        return LayerError(after.name, before.format, after.format, False, float("-inf"), 1.0, 0.0)
    sums = torch.zeros(4, dtype=torch.float64)
    rows, columns = before.shape
    step = max(1, WEIGHTS_AT_ONCE // max(1, columns))
    originals, results = decoder(source, before, before.shape), decoder(converted, after, before.shape)
    for first in range(0, rows, step):
        if cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        last = min(rows, first + step)
        sums += _moments(originals(first, last).reshape(-1), results(first, last).reshape(-1))
    signal, noise, product, power = sums.tolist()
    return LayerError(
        name=after.name,
        source_format=before.format,
        format=after.format,
        identical=noise == 0,
        sqnr_db=_decibels(signal, noise),
        rel_rmse=math.sqrt(noise / signal) if signal > 0 else float(noise > 0),
        cosine=product / math.sqrt(signal * power) if signal > 0 and power > 0 else float(noise == 0),
    )


def decoder(source: Source, layer: SourceLayer, shape: tuple[int, int]) -> Rows:
    """What returns float32 rows of a layer of any format."""
    if layer.format in FORMATS:
        return FORMATS[layer.format].decoder(_InFile(source, layer, shape))
    return lambda first, last: source.read_rows(layer.weight, first, last).float()


def _decibels(signal: float, noise: float) -> float | None:
    """10·log10(signal / noise); None without noise, minus infinity without signal or for what is no number."""
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(signal) and noise < math.inf else -math.inf


def _moments(original: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """float64 [4]: Σw², Σ(w−q)², Σwq, Σq² of float32 values.

    Products are summed in float32 over runs of 1024 and from there in float64, which keeps seven
    digits at a tenth of the cost; magnitudes whose squares leave float32 are computed in float64.
    """
    peak = float(original.abs().max()) if original.numel() else 0.0
    if not 1e-15 < peak < 1e15:
        original, result = original.double(), result.double()
    difference = original - result
    pairs = ((original, original), (difference, difference), (original, result), (result, result))
    return torch.stack([_dot(left, right) for left, right in pairs])


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    products = left * right
    whole = products.numel() // RUN * RUN
    runs = products[:whole].reshape(-1, RUN).sum(dim=1).sum(dtype=torch.float64)
    return runs + products[whole:].sum(dtype=torch.float64)


def _same_storage(source: Source, before: SourceLayer, converted: Source, after: SourceLayer) -> bool:
    """True when stored bytes and all scales of the weight agree, a missing FP8 scale counting as 1."""
    if not equal_bytes(source, before.weight, converted, after.weight):
        return False
    mine = {todays_name(name)[len(before.name) :]: source.read(name) for name in before.companions}
    theirs = {name[len(after.name) :]: converted.read(name) for name in after.companions}
    if after.is_fp8:
        scales = [found.get(".weight_scale", torch.ones(())).float().reshape(-1) for found in (mine, theirs)]
        return torch.equal(*scales)
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[key].reshape(-1).view(torch.uint8), theirs[key].reshape(-1).view(torch.uint8)) for key in mine
    )


def equal_bytes(source: Source, original: str, converted: Source, name: str) -> bool:
    """True when two tensors agree in dtype, shape and every byte."""
    one, other = source.tensors[original], converted.tensors[name]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(left == right for left, right in zip(source.chunks(original), converted.chunks(name), strict=True))
