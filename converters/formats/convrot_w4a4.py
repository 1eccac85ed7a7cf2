"""ConvRot W4A4 as stock ComfyUI stores it: rotated weights in four bits, one scale for each row.

========================  ===================================================================
``weight``                int8 [N, K/2], two signed INT4 in a byte, the even column in the low half
``weight_scale``          float32 [N]
========================  ===================================================================

Groups of 256 input channels are multiplied by a Hadamard matrix before rounding, and the kernels do the
same with the input, which they also round to four bits, measuring it anew for each row. 256 is the group
that comfy-kitchen's fused kernels take. GPUs since Turing compute it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from .format import Declared, Encoding, Fields, InputScale, Rows, Stored
from .pieces import in_pieces
from .weight import Weight

NAME = "convrot_w4a4"
GROUP = 256
POLICIES: Mapping[str, Fields] = {NAME: {"convrot_groupsize": GROUP}}
INPUT_SCALE = InputScale.NONE
SCALES: tuple[str, ...] = ("weight_scale",)
ROW_MULTIPLE = 16


def refusal(shape: tuple[int, int], fields: Fields) -> str | None:
    """Whole groups of input channels, and rows that the INT4 kernels multiply without padding."""
    if shape[1] % GROUP:
        return f"{shape[1]} input channels are not divisible by ConvRot's {GROUP}"
    return (
        f"{shape[0]} rows are not divisible by {ROW_MULTIPLE}, which {NAME} needs" if shape[0] % ROW_MULTIPLE else None
    )


def declare(shape: tuple[int, int], fields: Fields) -> Declared:
    """Tensors of a layer with weight ``shape`` (out_features, in_features)."""
    return {"weight": (torch.int8, (shape[0], shape[1] // 2)), "weight_scale": (torch.float32, (shape[0],))}


def encode(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
    """Rotate and round row by row, amax / 7."""

    def piece(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        packed, params = _layout().quantize(rows, convrot_groupsize=GROUP)
        return {"weight": packed, "weight_scale": params.scale}

    return in_pieces(weight, encoding, piece)


def decoder(stored: Stored) -> Rows:
    scale = stored.tensor("weight_scale")
    assert scale is not None
    group = stored.fields.get("convrot_groupsize", GROUP)

    def rows(first: int, last: int) -> torch.Tensor:
        params = _layout().Params(
            scale=scale[first:last],
            orig_dtype=torch.float32,
            orig_shape=(last - first, stored.shape[1]),
            convrot_groupsize=group,
        )
        values: torch.Tensor = _layout().dequantize(stored.rows(first, last), params)
        return values

    return rows


def quantized_input(values: torch.Tensor, input_scale: float | None, fields: Fields) -> torch.Tensor:
    """Rotated, each row rounded under its own amax / 7, rotated back: the steps that a weight takes."""
    rounded, params = _layout().quantize(values, convrot_groupsize=fields.get("convrot_groupsize", GROUP))
    result: torch.Tensor = _layout().dequantize(rounded, dataclasses.replace(params, orig_dtype=torch.float32))
    return result


def _layout() -> Any:
    """comfy-kitchen's, imported late: that takes more than a second, which other formats do without."""
    from comfy_kitchen.tensor import TensorCoreConvRotW4A4Layout

    return TensorCoreConvRotW4A4Layout
