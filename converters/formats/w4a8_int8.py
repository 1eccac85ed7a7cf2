"""Grouped W4A8 as stock ComfyUI stores it (``asym_w4a8_int8``): four-bit codes into a table, computed in INT8.

========================  ===================================================================
``weight``                int8 [N, K/2], two codes in a byte, the even column in the low half
``weight_s_rel``          float8_e4m3fn [N, K/16], scale of each group relative to its row
``weight_s_channel``      float32 [N], scale of each row
``weight_codebook``       float32 [16], the values of the codes
========================  ===================================================================

A weight is ``round(codebook[code] · s_rel) · s_channel``, and the whole is rotated back in groups of 256
input channels (ConvRot). In spite of the format's name comfy-kitchen's default is symmetric, and the
offsets that its asymmetric form needs are not read by ComfyUI 0.33's loader, so that form is not
written. ComfyUI measures every input anew, in INT8 with one scale for each of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from . import int8
from .format import Declared, Encoding, Fields, InputScale, Rows, Stored
from .pieces import in_pieces
from .weight import Weight, finite

NAME = "asym_w4a8_int8"
BLOCK, GROUP = 16, 256
POLICIES: Mapping[str, Fields] = {NAME: {"group_size": BLOCK, "convrot_groupsize": GROUP}}
INPUT_SCALE = InputScale.NONE
SCALES: tuple[str, ...] = ("weight_s_rel", "weight_s_channel")
ROW_MULTIPLE = 8
SAMPLE = 1 << 19
"""The table is chosen by rows of about so many weights, evenly spread over the tensor.

comfy-kitchen takes rows of 2²² weights, of which it looks at 2¹⁹ to tell whether its fixed table fits, and at 300 000
to make another. As many to begin with choose the same fixed table for any model known, or make one as close to the
weights (within 0.01 dB), and cost 40 MB a thread instead of 320.
"""
WEIGHTS_AT_ONCE = 1 << 18
"""comfy-kitchen's temporaries are 80 bytes a weight."""


def refusal(shape: tuple[int, int], fields: Fields) -> str | None:
    """Whole groups of input channels, and rows that INT8 kernels multiply without padding."""
    if shape[1] % GROUP:
        return f"{shape[1]} input channels are not divisible by ConvRot's {GROUP}"
    return (
        f"{shape[0]} rows are not divisible by {ROW_MULTIPLE}, which {NAME} needs" if shape[0] % ROW_MULTIPLE else None
    )


def declare(shape: tuple[int, int], fields: Fields) -> Declared:
    """Tensors of a layer with weight ``shape`` (out_features, in_features)."""
    rows, columns = shape
    return {
        "weight": (torch.int8, (rows, columns // 2)),
        "weight_s_rel": (torch.float8_e4m3fn, (rows, columns // BLOCK)),
        "weight_s_channel": (torch.float32, (rows,)),
        "weight_codebook": (torch.float32, (16,)),
    }


def encode(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
    """Choose the table as comfy-kitchen does, by a sample of the tensor, then rotate and round row by row."""
    table = _table(weight, encoding)

    def piece(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        packed, params = _layout().quantize(rows, BLOCK, GROUP, codebook_tensor=table)
        return {"weight": packed, "weight_s_rel": params.scale, "weight_s_channel": params.s_channel}

    return {**in_pieces(weight, encoding, piece, at_once=WEIGHTS_AT_ONCE), "weight_codebook": table.cpu()}


def _table(weight: Weight, encoding: Encoding) -> torch.Tensor:
    rows, columns = weight.shape
    most = max(1, SAMPLE // columns)
    if rows <= most:
        sample = weight.rows(0, rows)
    else:
        spread = torch.linspace(0, rows - 1, most).long().tolist()
        sample = torch.cat([weight.rows(row, row + 1) for row in spread])
    sample = sample.to(encoding.device).float()
    finite(sample.abs().amax(), weight.name)
    _, params = _layout().quantize(sample, BLOCK, GROUP)
    table: torch.Tensor = params.codebook
    return table


def decoder(stored: Stored) -> Rows:
    relative, channel = stored.tensor("weight_s_rel"), stored.tensor("weight_s_channel")
    assert relative is not None and channel is not None
    table = stored.tensor("weight_codebook")

    def rows(first: int, last: int) -> torch.Tensor:
        params = _layout().Params(
            scale=relative[first:last],
            s_channel=channel[first:last],
            codebook=table,
            orig_dtype=torch.float32,
            orig_shape=(last - first, stored.shape[1]),
            group_size=stored.fields.get("group_size", BLOCK),
            convrot_groupsize=stored.fields.get("convrot_groupsize", GROUP),
        )
        values: torch.Tensor = _layout().dequantize(stored.rows(first, last), params)
        return values

    return rows


def quantized_input(values: torch.Tensor, input_scale: float | None, fields: Fields) -> torch.Tensor:
    """As of a layer in INT8 with ConvRot, whose kernel computes it."""
    group = fields.get("convrot_groupsize", GROUP)
    return int8.quantized_input(values, None, {"convrot": True, "convrot_groupsize": group})


def _layout() -> Any:
    """comfy-kitchen's, imported late: that takes more than a second, which other formats do without."""
    from comfy_kitchen.tensor import AsymW4A8Int8Layout

    return AsymW4A8Int8Layout
