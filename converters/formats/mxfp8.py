"""MXFP8 as stock ComfyUI stores it: blocks of 32 weights share a power of two.

========================  ===================================================================
``weight``                float8_e4m3fn [N, K]
``weight_scale``          float8_e8m0fnu [⌈N/128⌉·128, ⌈K/128⌉·4], in cuBLAS's 128×4 tiles
========================  ===================================================================

A weight is ``float8 · weight_scale``; the bytes are those of comfy-kitchen's ``quantize_mxfp8``. The
safetensors files of ComfyUI hold the scales as uint8 or as float8_e8m0fnu, its loader views either.
ComfyUI's layout quantizes every input anew in blocks of 32 and passes no input_scale on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .format import Declared, Encoding, Fields, InputScale, Rows, Stored
from .pieces import in_pieces
from .tiles import roundup, untiled
from .weight import Weight, upcast

NAME = "mxfp8"
POLICIES: Mapping[str, Fields] = {NAME: {}}
INPUT_SCALE = InputScale.NONE
SCALES: tuple[str, ...] = ("weight_scale",)
BLOCK = 32
TILE_ROWS = 128
E8M0_BIAS = 127


def refusal(shape: tuple[int, int], fields: Fields) -> str | None:
    """Both sides in whole blocks: ComfyUI pads others, but then adds a bias of another length and computes in full precision."""
    if any(side % BLOCK for side in shape):
        return f"{shape[0]}×{shape[1]} is not divisible by {BLOCK}, which {NAME} needs"
    return None


def declare(shape: tuple[int, int], fields: Fields) -> Declared:
    """Tensors of a layer with weight ``shape`` (out_features, in_features)."""
    scales = (roundup(shape[0], TILE_ROWS), roundup(shape[1] // BLOCK, 4))
    return {"weight": (torch.float8_e4m3fn, shape), "weight_scale": (torch.float8_e8m0fnu, scales)}


def encode(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
    """Quantize pieces of whole tiles of scales."""
    import comfy_kitchen  # takes more than a second, which other formats do without

    def piece(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        values, scales = comfy_kitchen.quantize_mxfp8(rows)
        return {"weight": values, "weight_scale": scales}

    return in_pieces(weight, encoding, piece, multiple=TILE_ROWS)


def decoder(stored: Stored) -> Rows:
    """Rows times the powers of two of their blocks, exact in float32."""
    blocked = stored.tensor("weight_scale")
    assert blocked is not None
    exponents = untiled(blocked.view(torch.uint8), stored.shape[0], stored.shape[1] // BLOCK)

    def rows(first: int, last: int) -> torch.Tensor:
        values = upcast(stored.rows(first, last), None, stored.name)
        scales = torch.exp2(exponents[first:last].float() - E8M0_BIAS)
        return (values.reshape(last - first, -1, BLOCK) * scales.unsqueeze(-1)).flatten(1)

    return rows


def quantized_input(values: torch.Tensor, input_scale: float | None, fields: Fields) -> torch.Tensor:
    """Blocks of 32 neighbours under powers of two that their largest magnitudes choose; input_scale is not read."""
    import comfy_kitchen

    columns = values.shape[1]
    padded = torch.nn.functional.pad(values, (0, -columns % BLOCK))
    rounded, scales = comfy_kitchen.quantize_mxfp8(padded)
    result: torch.Tensor = comfy_kitchen.dequantize_mxfp8(rounded, scales, torch.float32)
    return result[:, :columns]
