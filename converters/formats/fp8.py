"""FP8 with one float32 scale a tensor, as stock ComfyUI stores it: ``weight`` and ``weight_scale``.

A weight is ``float8 · weight_scale``. Both FP8 types are read; E4M3 is written.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..rounding.e2m1 import positive
from .format import Declared, Encoding, Fields, InputScale, Rows, Stored
from .pieces import in_pieces, pieces_of
from .weight import Weight, one_a_row, upcast

NAME = "float8_e4m3fn"
E5M2_NAME = "float8_e5m2"
POLICIES: Mapping[str, Fields] = {NAME: {}}
INPUT_SCALE = InputScale.NEEDED
SCALES: tuple[str, ...] = ("weight_scale",)
E4M3_MAX = 448.0
DTYPES: Mapping[object, torch.dtype] = {NAME: torch.float8_e4m3fn, E5M2_NAME: torch.float8_e5m2}


def refusal(shape: tuple[int, int], fields: Fields) -> str | None:
    """Any matrix can be held."""
    return None


def declare(shape: tuple[int, int], fields: Fields) -> Declared:
    """Tensors of a layer of the type that the tag names, E4M3 when it names none."""
    return {"weight": (DTYPES[fields.get("format", NAME)], shape), "weight_scale": (torch.float32, ())}


def encode(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
    """Quantize with scale amax / 448, nearest rounding. All zero weights get scale 1."""
    amax = torch.stack([rows.abs().amax() for rows in pieces_of(weight, encoding)]).amax()
    scale = positive(amax / E4M3_MAX).to(encoding.device)

    def piece(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"weight": (rows / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)}

    return {**in_pieces(weight, encoding, piece), "weight_scale": scale.cpu().reshape(())}


def decoder(stored: Stored) -> Rows:
    """Upcast rows; a scale may also be one a row, as some sources have it."""
    scale = stored.tensor("weight_scale")
    by_row = scale is not None and one_a_row(stored.name, tuple(scale.shape), stored.shape[0])

    def rows(first: int, last: int) -> torch.Tensor:
        own = scale.reshape(-1)[first:last] if scale is not None and by_row else scale
        return upcast(stored.rows(first, last), own, stored.name)

    return rows


def quantized_input(values: torch.Tensor, input_scale: float | None, fields: Fields) -> torch.Tensor:
    """Times 1 / input_scale in the input's dtype, clamped, rounded; without an input_scale the scale is 1."""
    dtype = DTYPES[fields.get("format", NAME)]
    scale = torch.tensor(1.0 if input_scale is None else input_scale, device=values.device)
    largest = torch.finfo(dtype).max
    rounded = (values * (1.0 / scale).to(values.dtype)).clamp_(-largest, largest).to(dtype)
    return rounded.float() * scale
