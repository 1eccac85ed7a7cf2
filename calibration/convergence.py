"""Whether more samplings would still change the layers' ranges.

A merge knows no order, so "the last quarter of the runs" has no meaning for a merged file. Each sampling
falls instead into one of eight folds by a hash of what it measured, as good as by lot and the same on
every machine. For each layer and fold the largest call amax is kept, and merging is a maximum: exact,
associative, commutative. Leaving out any two of the eight folds leaves out a quarter of the runs on
average. The default range is proportional to the largest call amax below 1000 calls, so the change is that
of the maximum; from there on the range is the 99.9th percentile of the calls, which moves less.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

FOLDS = 8
LEFT_OUT = 2
ENOUGH_SAMPLINGS = 8
SETTLED = 0.2
"""Relative change that more samplings may still bring: the default range has a headroom of 2 above the
largest call, so at 0.2 a sampling that surprises as much as any before is still far from clipping."""


@dataclass(frozen=True)
class Convergence:
    """change: largest relative change 0..1 of any layer's default range if a quarter of the runs were left
    out, None while unknown; layer: the one that would change most; changes: of every layer, when known.
    advice: one sentence for the user.
    """

    change: float | None
    layer: str
    changes: Mapping[str, float]
    advice: str

    @property
    def enough(self) -> bool:
        """Whether nothing speaks for more images."""
        return self.change is not None and self.change <= SETTLED


def fold_of(measured: Iterable[tuple[str, torch.Tensor]]) -> int:
    """The fold 0..7 of a sampling with these named tensors, by SHA-256 over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in measured:
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.digest()[0] % FOLDS


def largest_change(fold_amax: torch.Tensor, fold_samplings: torch.Tensor) -> float | None:
    """1 - (third largest fold's amax) / (largest), which is the worst that leaving out two folds can do.

    None below eight samplings or when more than two folds are empty: then two folds are more than a quarter
    of little. A layer of zeros has no change.
    """
    filled = fold_samplings > 0
    if int(fold_samplings.sum()) < ENOUGH_SAMPLINGS or int(filled.sum()) < FOLDS - LEFT_OUT:
        return None
    ordered = fold_amax[filled].sort(descending=True).values.tolist()
    return 1.0 - ordered[LEFT_OUT] / ordered[0] if ordered[0] > 0 else 0.0


def convergence(changes: Mapping[str, float | None], fold_samplings: torch.Tensor) -> Convergence:
    """The verdict over all layers; `changes` from `largest_change`."""
    samplings = int(fold_samplings.sum())
    known = {name: change for name, change in changes.items() if change is not None}
    if not known:
        missing = max(ENOUGH_SAMPLINGS - samplings, int((fold_samplings == 0).sum()) - LEFT_OUT, 1)
        return Convergence(None, "", {}, f"More images are needed to tell whether they are enough: at least {missing}.")
    layer = max(known, key=lambda name: known[name])
    change = known[layer]
    if change <= SETTLED:
        advice = f"Enough: without a quarter of the samplings no range would change by more than {change:.0%}."
    else:
        more = max(ENOUGH_SAMPLINGS, math.ceil(samplings / 2))
        advice = (
            f"Add {more} more images: without a quarter of the samplings the range of {layer} would be "
            f"{change:.0%} smaller."
        )
    return Convergence(change, layer, known, advice)
