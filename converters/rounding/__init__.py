"""Weight rounding methods behind one signature.

A method is a module with

* ``HELP``: one sentence for people;
* ``CANDIDATES``: the block scales that each block may choose from, see ``candidates``;
* ``tensor_scale(amax) -> Tensor``: ``weight_scale_2``, float32 scalar, from the weight's largest magnitude.

Rows are rounded some at a time (``candidates.round_rows`` for any dtype, ``fp8_tables`` for FP8 bytes) so
that memory stays bounded; the tensor scale is the only thing that all rows share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from ..errors import PlanError
from . import block_search, block_search_mse, four_over_six, nearest
from .candidates import Candidate


class Rounding(Protocol):
    """The signature that every method's module has."""

    HELP: str
    CANDIDATES: tuple[Candidate, ...]

    def tensor_scale(self, amax: torch.Tensor) -> torch.Tensor: ...


METHODS: Mapping[str, Rounding] = {
    "four-over-six": four_over_six,
    "nearest": nearest,
    "block-search": block_search,
    "block-search-mse": block_search_mse,
}
ROUNDINGS: Mapping[str, str] = {name: method.HELP for name, method in METHODS.items()}
DEFAULT_ROUNDING = "four-over-six"


def rounding(name: str) -> Rounding:
    """Return a method by name.

    Raises:
        PlanError: no such method.
    """
    if name not in METHODS:
        raise PlanError(f"There is no rounding method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]
