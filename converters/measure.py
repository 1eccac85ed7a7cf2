"""How far the weights of a converted layer are from the source's, both as ComfyUI would compute with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from .errors import Cancelled, ConversionError
from .formats import FORMATS, Rows, Weight
from .layers import SourceLayer, todays_name
from .plan import LayerDecision
from .source import Source
from .stored import Encoded, InFile, decoder

WEIGHTS_AT_ONCE = 1 << 19
"""Weights compared at once: a few temporaries of 2 MiB."""
RUN = 4096
SAMPLED_RUNS, SAMPLED_ROWS = 16, 32
"""Of a weight that was just encoded 16 runs of 32 neighbouring rows are compared, evenly spread: as telling as all of
them for a mean over a million weights, at a sixth of the cost in a layer of 3072 rows. ``verify`` compares all."""
LEAST_SQNR_DB = 10.0
"""What verification accepts."""
SMALL_AMAX = 1e-4
"""No format's least scale matters above: comfy-kitchen's are at most 1e-8, for W4A8, whose steps are 127 in a row."""


@dataclass(frozen=True)
class LayerError:
    """Distance of one layer's weights from the source's, both as ComfyUI would compute with them.

    Of a layer with a pre_quant_scale the source's are divided by it, as they were before they were rounded.
    ``sqnr_db`` is ``10·log10(Σw² / Σ(w−q)²)``, ``rel_rmse`` its root form ``√(Σ(w−q)² / Σw²)``,
    ``cosine`` that of the angle between the weights, ``mse`` the mean of ``(w−q)²``; ``identical`` means no
    difference (SQNR None).
    """

    name: str
    source_format: str
    format: str
    identical: bool
    sqnr_db: float | None
    rel_rmse: float
    cosine: float
    mse: float = 0.0

    @classmethod
    def unchanged(cls, name: str, stored_format: str) -> LayerError:
        """Of a layer whose weight is the source's."""
        return cls(name, stored_format, stored_format, True, None, 0.0, 1.0)

    @property
    def plausible(self) -> bool:
        """Whether a rounding explains it: an SQNR of ``LEAST_SQNR_DB`` or more, or no difference."""
        return self.sqnr_db is None or self.sqnr_db >= LEAST_SQNR_DB


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
        return LayerError.unchanged(after.name, before.format)
    if after.format not in FORMATS or not (before.is_fp8 or before.is_plain):
        return LayerError(after.name, before.format, after.format, False, float("-inf"), 1.0, 0.0, float("inf"))
    plain, results = decoder(source, before, before.shape), decoder(converted, after, before.shape)
    divisor = InFile(converted, after, before.shape).tensor("pre_quant_scale")
    originals = plain if divisor is None else lambda first, last: plain(first, last).float() / divisor.float()

    def check() -> None:
        if cancelled():
            raise Cancelled("Cancelled; nothing was changed.")

    return _distance(after.name, before.format, after.format, before.shape, originals, results, check)


def measure_encoded(
    weight: Weight, layer: LayerDecision, tensors: Mapping[str, torch.Tensor], check: Callable[[], None]
) -> LayerError:
    """Compare a weight with the tensors that it was encoded to, by suffix, in a sample of its rows where there are many.

    All rows are compared where the sample shows no difference, or one that no rounding explains.

    Args:
        weight: divided by its pre_quant_scale where it has one.
        check: called between pieces; may raise to cancel.

    Raises:
        ConversionError: the format has no scales for weights as small as these.
    """
    results = FORMATS[layer.format].decoder(Encoded(layer.name, layer.shape, layer.tag or {}, tensors))
    sample, names = _sampled_rows(layer.shape), (layer.name, layer.source_format, layer.format)
    error = _distance(*names, layer.shape, weight.rows, results, check, sample)
    if sample is not None and (error.identical or not error.plausible):
        # Rows that say nothing of the others: zeros, or ones that are far smaller than those that the scales are for.
        error = _distance(*names, layer.shape, weight.rows, results, check)
    if not error.plausible:
        _refuse_small(weight, layer, check)
    return error


def _sampled_rows(shape: tuple[int, int]) -> list[tuple[int, int]] | None:
    """Runs of rows (first, last) to compare, None for all of them."""
    rows = shape[0]
    if rows <= 2 * SAMPLED_RUNS * SAMPLED_ROWS:
        return None
    firsts = (number * (rows - SAMPLED_ROWS) // (SAMPLED_RUNS - 1) for number in range(SAMPLED_RUNS))
    return [(first, first + SAMPLED_ROWS) for first in firsts]


def _refuse_small(weight: Weight, layer: LayerDecision, check: Callable[[], None]) -> None:
    rows, columns = weight.shape
    step = max(1, WEIGHTS_AT_ONCE // columns)
    amax = 0.0
    for first in range(0, rows, step):
        check()
        amax = max(amax, float(weight.rows(first, min(rows, first + step)).abs().amax()))
    if amax < SMALL_AMAX:
        raise ConversionError(
            f"The largest weight of layer {weight.name} is {amax:.3g}, too small for the scales of {layer.format}; "
            "keep this layer by a rule with policy keep in a recipe of your own."
        )


def _distance(
    name: str,
    source_format: str,
    stored_format: str,
    shape: tuple[int, int],
    originals: Rows,
    results: Rows,
    check: Callable[[], None],
    sample: list[tuple[int, int]] | None = None,
) -> LayerError:
    """``sample``: runs of rows (first, last), small ones; None for all rows."""
    sums = torch.zeros(4, dtype=torch.float64)
    rows, columns = shape
    step = max(1, WEIGHTS_AT_ONCE // max(1, columns))
    runs = [(first, min(rows, first + step)) for first in range(0, rows, step)] if sample is None else sample
    for first, last in runs:
        check()
        sums += _moments(originals(first, last).float().reshape(-1), results(first, last).reshape(-1))
    signal, noise, product, power = sums.tolist()
    return LayerError(
        name=name,
        source_format=source_format,
        format=stored_format,
        identical=noise == 0,
        sqnr_db=_decibels(signal, noise),
        rel_rmse=math.sqrt(noise / signal) if signal > 0 else float(noise > 0),
        cosine=product / math.sqrt(signal * power) if signal > 0 and power > 0 else float(noise == 0),
        mse=noise / max(1, sum(last - first for first, last in runs) * columns),
    )


def _decibels(signal: float, noise: float) -> float | None:
    """10·log10(signal / noise); None without noise, minus infinity without signal or for what is no number."""
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(signal) and noise < math.inf else -math.inf


def _moments(original: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """float64 [4]: Σw², Σ(w−q)², Σwq, Σq² of float32 values; ``result`` becomes the difference.

    Products are summed in float32 over runs of 4096 and from there in float64, which keeps seven digits at a
    tenth of the cost; magnitudes whose squares leave float32 are computed in float64.
    """
    signal = _dot(original, original)
    if original.dtype == torch.float32 and not 1e-20 < float(signal) / max(1, original.numel()) < 1e20:
        return _moments(original.double(), result.double())
    difference = result.sub_(original)
    noise, cross = _dot(difference, difference), _dot(original, difference)
    return torch.stack((signal, noise, signal + cross, signal + 2 * cross + noise))


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    products = left * right
    whole = products.numel() // RUN * RUN
    runs = products[:whole].view(-1, RUN).sum(dim=1).sum(dtype=torch.float64)
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
