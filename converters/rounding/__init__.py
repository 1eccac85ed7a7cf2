"""Weight rounding methods behind one signature.

A method is a module with

* ``HELP``: one sentence for people;
* ``NEEDS``: the level of detail that a layer must have been calibrated with; ``scales`` for none at all;
* ``CANDIDATES``: the block scales that each block may choose from, see ``candidates``;
* ``tensor_scale(amax) -> Tensor``: ``weight_scale_2``, float32 scalar, from the weight's largest magnitude.

A method that needs more than scales has no ``CANDIDATES`` but

* ``missing(statistics) -> str | None``: why a layer's statistics do not suffice;
* ``rounder(tensor_scale, statistics, values)``: a function that quantizes rows of this layer, float32 [R, K] with K a
  multiple of 16 (or such FP8 bytes), to packed E2M1 codes uint8 [R, K/16, 8], the even column in the high nibble, and
  block scales float8_e4m3fn [R, K/16];
* ``TAKES_BYTES``: whether these may be FP8 bytes, of which ``values`` float32 [256] tells the meaning.

Rows are rounded some at a time (by ``candidates`` and for FP8 bytes ``fp8_tables`` where there is one candidate, by
``scale_table`` where there are several) so that memory stays bounded; the tensor scale is the only thing that all rows
share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import PlanError
from . import block_search, block_search_mse, four_over_six, gptq, nearest, weighted
from .candidates import Candidate

if TYPE_CHECKING:
    from ...calibration import LayerStatistics


class Rounding(Protocol):
    """The signature that every method's module has."""

    HELP: str
    NEEDS: str
    CANDIDATES: tuple[Candidate, ...]

    def tensor_scale(self, amax: torch.Tensor) -> torch.Tensor: ...


class Informed(Rounding, Protocol):
    """A method that looks at what was seen of a layer's inputs."""

    TAKES_BYTES: bool

    def missing(self, statistics: LayerStatistics) -> str | None: ...

    def rounder(
        self, tensor_scale: torch.Tensor, statistics: LayerStatistics, values: torch.Tensor | None = None
    ) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]: ...


INFORMED: Mapping[str, Informed] = {"weighted": weighted, "gptq": gptq}
METHODS: Mapping[str, Rounding] = {
    "four-over-six": four_over_six,
    "nearest": nearest,
    "block-search": block_search,
    "block-search-mse": block_search_mse,
    **INFORMED,
}
AUTO = "auto"
SIMPLER: Mapping[str, str] = {AUTO: "gptq", "gptq": "weighted", "weighted": "block-search"}
"""What is taken in the place of a method for which a layer's statistics do not suffice.

The order is that of pictures, not of weight errors: ``benchmarks/rounding_draws.py`` measures it on two trained
models. Of the methods that need no statistics, block search without clipping comes first on both; four-over-six is no
better than nearest on one of them.
"""
ROUNDINGS: Mapping[str, str] = {
    AUTO: "the best method that each layer's calibration allows: gptq, else weighted, else block-search",
    **{name: method.HELP for name, method in METHODS.items()},
}
DEFAULT_ROUNDING = AUTO
OFF, SEARCH = "off", "search"
PRE_QUANT_CHOICES: Mapping[str, str] = {
    OFF: "none but those that the recipe pins",
    SEARCH: "for each NVFP4 layer the exponent with which its outputs on held-out inputs are closest, none where they are no "
    "closer; rounds each layer four times more and needs detail curvature; LoRAs are scaled with it",
}
"""Whether layers get a pre_quant_scale, see ``pre_quant``."""


def check_rounding(name: str) -> None:
    """Raises PlanError when there is no such method."""
    if name not in ROUNDINGS:
        raise PlanError(f"There is no rounding method {name!r}; choose one of {', '.join(ROUNDINGS)}.")


def rounding_for(name: str, statistics: LayerStatistics | None) -> tuple[str, str]:
    """The method that a layer gets, a key of ``METHODS``, and why it is not the one asked for, "" when it is."""
    method, why = name, ""
    while method not in METHODS or method in INFORMED:
        lacking = None
        if method in INFORMED:
            lacking = INFORMED[method].missing(statistics) if statistics is not None else "not calibrated"
            if lacking is None:
                break
        why = why or lacking or ""
        method = SIMPLER[method]
    return method, f"rounded by {method} in place of {name}: {why}" if why and name != AUTO else ""
