"""NVFP4 as stock ComfyUI stores it.

========================  ===================================================================
``weight``                uint8 [N', K'/2], the even column in the high nibble
``weight_scale``          float8_e4m3fn [⌈N'/128⌉·128, ⌈K'/64⌉·4], in cuBLAS's 128×4 tiles
``weight_scale_2``        float32 scalar
========================  ===================================================================

N' and K' are N and K rounded up to multiples of 16. A weight is
``e2m1 · weight_scale · weight_scale_2``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch

from ..rounding import Informed, candidates, fp8_tables, nearest, scale_table
from ..rounding.e2m1 import BLOCK, amax_of
from ..rounding.e2m1 import decode as e2m1_decode
from .format import Declared, Encoding, Fields, InputScale, Rows, Stored
from .staging import through
from .tiles import roundup, tiled, untiled
from .weight import Weight, finite, upcast

NAME = "nvfp4"
POLICIES: Mapping[str, Fields] = {NAME: {}}
INPUT_SCALE = InputScale.OPTIONAL
SCALES: tuple[str, ...] = ("weight_scale", "weight_scale_2")
PAD = 16
WEIGHTS_AT_ONCE = 1 << 19
"""Weights rounded at once: half a dozen temporaries of 2 MiB, between a CPU's cache and the cost of calls."""
LOOKED_UP_AT_ONCE = 1 << 20
"""Weights looked up at once: fewer, smaller temporaries, so that calls into torch weigh more than the cache."""
CUDA_WEIGHTS_AT_ONCE = 1 << 25
"""On a GPU fewer, larger pieces: launches cost more than memory."""


def refusal(shape: tuple[int, int], fields: Fields) -> str | None:
    """Any matrix can be held: it is padded."""
    return None


def declare(shape: tuple[int, int], fields: Fields) -> Declared:
    """Tensors of a layer with weight ``shape`` (out_features, in_features)."""
    rows, columns = padded(shape)
    return {
        "weight": (torch.uint8, (rows, columns // 2)),
        "weight_scale": (torch.float8_e4m3fn, (roundup(rows, 128), roundup(columns // BLOCK, 4))),
        "weight_scale_2": (torch.float32, ()),
    }


def padded(shape: tuple[int, int]) -> tuple[int, int]:
    """Both sides rounded up to multiples of 16."""
    return roundup(shape[0], PAD), roundup(shape[1], PAD)


def encode(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
    """Quantize by the rounding method; FP8 with one scale by look-up where the method allows it, with the same bytes."""
    method = encoding.method
    tensor_scale = method.tensor_scale(finite(_amax(weight), weight.name)).to(encoding.device)
    as_bytes = _has_one_scale(weight)
    if not method.CANDIDATES:
        informed = cast(Informed, method)
        assert encoding.statistics is not None
        as_bytes = as_bytes and informed.TAKES_BYTES
        values = _values(weight).to(encoding.device) if as_bytes else None
        round_rows = informed.rounder(tensor_scale, encoding.statistics, values)
    elif as_bytes:
        round_rows = _byte_rounder(_values(weight).to(encoding.device), tensor_scale, method.CANDIDATES)
    else:
        round_rows = _rounder(tensor_scale, method.CANDIDATES)
    raw = weight.stored.view(torch.uint8) if as_bytes else None
    read = weight.rows if raw is None else lambda first, last: raw[first:last]
    at_once = WEIGHTS_AT_ONCE if raw is None and method.CANDIDATES else LOOKED_UP_AT_ONCE
    return _encode(read, weight.shape, round_rows, tensor_scale, at_once, encoding)


def _rounder(tensor_scale: torch.Tensor, tried: tuple[candidates.Candidate, ...]) -> scale_table.Rounder:
    if len(tried) > 1:
        return lambda rows: scale_table.round_rows(rows, tensor_scale, tried)
    return lambda rows: candidates.round_rows(rows, tensor_scale, tried[0])


def _byte_rounder(
    values: torch.Tensor, tensor_scale: torch.Tensor, tried: tuple[candidates.Candidate, ...]
) -> scale_table.Rounder:
    if len(tried) > 1:
        return scale_table.byte_rounder(values, tensor_scale, tried)
    return fp8_tables.Tables.build(values, tensor_scale, tried[0]).round_rows


def _has_one_scale(weight: Weight) -> bool:
    """Whether a byte stands for the same value wherever it is."""
    return weight.is_fp8 and weight.divisor is None and (weight.scale is None or weight.scale.numel() == 1)


def _values(weight: Weight) -> torch.Tensor:
    """float32 [256]: what each byte of an FP8 weight with one scale stands for."""
    all_bytes = torch.arange(fp8_tables.VALUES, dtype=torch.uint8).view(weight.stored.dtype)
    return upcast(all_bytes.reshape(1, -1), weight.scale, weight.name).reshape(-1)


def _amax(weight: Weight) -> torch.Tensor:
    """Largest magnitude as a scalar, of the weight's dtype, which some methods' tensor scale depends on."""
    rows, columns = weight.shape
    step = max(1, LOOKED_UP_AT_ONCE // max(1, columns))
    pieces = range(0, rows, step)
    if _has_one_scale(weight):
        raw = weight.stored.view(torch.uint8)
        return _values(weight)[max((int((raw[first : first + step] & 127).max()) for first in pieces), default=0)]
    if weight.is_fp8 or weight.divisor is not None:
        return torch.stack([amax_of(weight.rows(first, min(rows, first + step))) for first in pieces]).amax()
    amax = amax_of(weight.stored)
    return amax.float() if amax.dtype == torch.float64 else amax


def _encode(
    read: Callable[[int, int], torch.Tensor],
    shape: tuple[int, int],
    round_rows: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    tensor_scale: torch.Tensor,
    at_once: int,
    encoding: Encoding,
) -> dict[str, torch.Tensor]:
    device = tensor_scale.device
    rows, columns = padded(shape)
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8)
    packed[shape[0] :] = 0
    scales = torch.zeros(rows, columns // BLOCK, dtype=torch.uint8)
    step = max(1, (at_once if device.type == "cpu" else CUDA_WEIGHTS_AT_ONCE) // columns)

    def pieces() -> Iterator[torch.Tensor]:
        for start in range(0, shape[0], step):
            encoding.check()
            piece = read(start, min(shape[0], start + step))
            yield torch.nn.functional.pad(piece, (0, columns - piece.shape[1])) if columns > piece.shape[1] else piece

    first = 0
    for codes, block_scales in through(device, pieces(), round_rows):
        last = first + len(codes)
        packed[first:last].view(codes.shape).copy_(codes)
        scales[first:last] = block_scales.view(torch.uint8)
        first = last
    return {
        "weight": packed,
        "weight_scale": tiled(scales).view(torch.float8_e4m3fn),
        "weight_scale_2": tensor_scale.cpu().reshape(()),
    }


def unblocked_scales(weight_scale: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Block scales float8_e4m3fn [N', K'/16] in plain row order."""
    rows, columns = padded(shape)
    return untiled(weight_scale.view(torch.uint8), rows, columns // BLOCK).view(torch.float8_e4m3fn)


@functools.cache
def _pairs() -> torch.Tensor:
    """int64 [256]: the two float32 values of each packed byte, side by side."""
    packed = torch.arange(256, dtype=torch.uint8)
    return e2m1_decode(torch.stack((packed >> 4, packed & 15), dim=-1)).contiguous().view(torch.int64).reshape(-1)


def decode_rows(packed: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor, columns: int) -> torch.Tensor:
    """Float32 values [R, columns] of packed rows [R, K'/2] with plain block scales [R, K'/16]."""
    # Both values of a byte are fetched as one number of 64 bits.
    values = torch.index_select(_pairs(), 0, packed.reshape(-1).int()).view(torch.float32)
    blocks = values.view(packed.shape[0], -1, BLOCK)
    blocks *= (scales.float() * tensor_scale.float()).unsqueeze(-1)
    return blocks.flatten(1)[:, :columns]


def decoder(stored: Stored) -> Rows:
    scales, tensor_scale = stored.tensor("weight_scale"), stored.tensor("weight_scale_2")
    assert scales is not None and tensor_scale is not None
    plain = unblocked_scales(scales, stored.shape)
    return lambda first, last: decode_rows(stored.rows(first, last), plain[first:last], tensor_scale, stored.shape[1])


def quantized_input(values: torch.Tensor, input_scale: float | None, fields: Fields | None = None) -> torch.Tensor:
    """What ComfyUI's kernels make of a layer's input before they multiply: float32 [R, K] of any float [R, K].

    Each 16 neighbours are rounded by ``nearest`` under the tensor scale ``input_scale``; None is the scale of a layer
    without one, amax / 2688 of these very rows.
    """
    scale = nearest.tensor_scale(amax_of(values)) if input_scale is None else torch.tensor(input_scale)
    columns = values.shape[1]
    rows = torch.nn.functional.pad(values, (0, -columns % BLOCK))
    packed, scales = candidates.round_rows(rows, scale.float().to(values.device), nearest.CANDIDATES[0])
    return decode_rows(packed.flatten(1), scales, scale, columns)
