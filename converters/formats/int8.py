"""INT8 as stock ComfyUI stores it (``int8_tensorwise``), with one scale for each row of the weight.

========================  ===================================================================
``weight``                int8 [N, K]
``weight_scale``          float32 [N, 1]
========================  ===================================================================

A weight is ``int8 · weight_scale``. In spite of its name the format takes one scale a tensor or one an
output channel: comfy-kitchen 0.2.31's eager, CUDA and Triton ``int8_linear`` read both, and one a row
costs 4 bytes a row and is closer. The shape must be [N, 1], because dequantizing broadcasts it.

The variant ``int8_convrot`` multiplies groups of 256 input channels by a Hadamard matrix before rounding
(ConvRot), which spreads outliers of weights and inputs over the group; the kernels do the same with
the input, for 256 the fused way. ComfyUI measures every input anew, with one scale for each of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from .format import Declared, Encoding, Fields, InputScale, Rows, Stored
from .pieces import in_pieces
from .weight import Weight

NAME = "int8_tensorwise"
GROUP = 256
POLICIES: Mapping[str, Fields] = {
    NAME: {},
    "int8_convrot": {"convrot": True, "convrot_groupsize": GROUP},
}
INPUT_SCALE = InputScale.NONE
SCALES: tuple[str, ...] = ("weight_scale",)
ROW_MULTIPLE, COLUMN_MULTIPLE = 8, 16
"""What INT8 tensor cores multiply without padding."""


def refusal(shape: tuple[int, int], fields: Fields) -> str | None:
    """Sides that INT8 tensor cores multiply, and whole groups where there is a rotation."""
    if shape[0] % ROW_MULTIPLE or shape[1] % COLUMN_MULTIPLE:
        return f"{shape[0]}×{shape[1]} is not divisible by {ROW_MULTIPLE}×{COLUMN_MULTIPLE}, which INT8 kernels need"
    group = _group(fields)
    return f"{shape[1]} input channels are not divisible by ConvRot's {group}" if group and shape[1] % group else None


def declare(shape: tuple[int, int], fields: Fields) -> Declared:
    """Tensors of a layer with weight ``shape`` (out_features, in_features)."""
    return {"weight": (torch.int8, shape), "weight_scale": (torch.float32, (shape[0], 1))}


def encode(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
    """Quantize row by row, nearest rounding, amax / 127; rotated first when the tag says so."""
    group = _group(encoding.fields)

    def piece(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        values, params = _layout().quantize(
            rows, per_channel=True, convrot=bool(group), convrot_groupsize=group or GROUP
        )
        return {"weight": values, "weight_scale": params.scale}

    return in_pieces(weight, encoding, piece)


def decoder(stored: Stored) -> Rows:
    scale = stored.tensor("weight_scale")
    assert scale is not None
    group = _group(stored.fields)

    def rows(first: int, last: int) -> torch.Tensor:
        params = _layout().Params(
            scale=scale[first:last] if scale.numel() > 1 else scale,
            orig_dtype=torch.float32,
            orig_shape=(last - first, stored.shape[1]),
            convrot=bool(group),
            convrot_groupsize=group or GROUP,
        )
        values: torch.Tensor = _layout().dequantize(stored.rows(first, last), params)
        return values

    return rows


def quantized_input(values: torch.Tensor, input_scale: float | None, fields: Fields) -> torch.Tensor:
    """Each row rounded under its own amax / 127, rotated before and back afterwards when the tag says so.

    Inputs and weights take the same steps: with one scale a row there is no other difference.
    """
    group = _group(fields)
    rounded, params = _layout().quantize(
        values, per_channel=True, convrot=bool(group), convrot_groupsize=group or GROUP
    )
    result: torch.Tensor = _layout().dequantize(rounded, dataclasses.replace(params, orig_dtype=torch.float32))
    return result


def _group(fields: Fields) -> int:
    """Input channels that are rotated together, 0 for none."""
    group = fields.get("convrot_groupsize", GROUP)
    return group if fields.get("convrot") and isinstance(group, int) else 0


def _layout() -> Any:
    """comfy-kitchen's, imported late: that takes more than a second, which other formats do without."""
    from comfy_kitchen.tensor import TensorWiseINT8Layout

    return TensorWiseINT8Layout
