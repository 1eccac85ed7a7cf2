"""Weight rounding methods behind one signature.

A method is a module with

* ``HELP``: one sentence for people;
* ``tensor_scale(weight) -> Tensor``: float32 scalar, ``weight_scale_2``;
* ``round_rows(rows, tensor_scale) -> (codes, block_scale)``: E2M1 codes uint8 [R, K] (0 to 15, sign
  in bit 3) and block scales float8_e4m3fn [R, K/16] for rows [R, K] of any float dtype, K a multiple
  of 16.

``round_rows`` sees some rows at a time so that memory stays bounded; the tensor scale is the only
thing that all rows share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from ..errors import PlanError
from . import four_over_six, nearest


class Rounding(Protocol):
    """The signature that every method's module has."""

    HELP: str

    def tensor_scale(self, weight: torch.Tensor) -> torch.Tensor: ...

    def round_rows(self, rows: torch.Tensor, tensor_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


METHODS: Mapping[str, Rounding] = {"four-over-six": four_over_six, "nearest": nearest}
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
