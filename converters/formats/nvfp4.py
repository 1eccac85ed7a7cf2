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

from collections.abc import Callable, Mapping

import torch
from comfy_kitchen.float_utils import from_blocked, roundup, to_blocked

from ..rounding import Rounding
from ..rounding.e2m1 import BLOCK
from ..rounding.e2m1 import decode as e2m1_decode

NAME = "nvfp4"
PAD = 16
ROWS_AT_ONCE = 1 << 21
"""Weights rounded at once: the float32 temporaries of a chunk (about 10 of 8 MiB) stay small."""


def declare(shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
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


def encode(
    weight: torch.Tensor,
    method: Rounding,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> dict[str, torch.Tensor]:
    """Quantize a weight [N, K] of any float dtype.

    Args:
        weight: on the CPU; padded with zeros here.
        method: a rounding method.
        device: where the arithmetic runs; results come back to the CPU.
        check: called between chunks of rows; may raise to cancel.
    """
    rows, columns = padded((weight.shape[0], weight.shape[1]))
    tensor_scale = method.tensor_scale(weight.to(device)) if device.type != "cpu" else method.tensor_scale(weight)
    packed = torch.zeros(rows, columns // 2, dtype=torch.uint8)
    scales = torch.zeros(rows, columns // BLOCK, dtype=torch.uint8)
    step = max(1, ROWS_AT_ONCE // columns)
    for first in range(0, weight.shape[0], step):
        check()
        part = weight[first : first + step].to(device)
        part = torch.nn.functional.pad(part, (0, columns - weight.shape[1]))
        codes, block_scale = method.round_rows(part, tensor_scale)
        packed[first : first + len(part)] = ((codes[:, 0::2] << 4) | codes[:, 1::2]).cpu()
        scales[first : first + len(part)] = block_scale.view(torch.uint8).cpu()
    return {
        "weight": packed,
        "weight_scale": to_blocked(scales, flatten=False).view(torch.float8_e4m3fn).contiguous(),
        "weight_scale_2": tensor_scale.cpu().float().reshape(()),
    }


def unblocked_scales(weight_scale: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Block scales float8_e4m3fn [N', K'/16] in plain row order."""
    rows, columns = padded(shape)
    plain: torch.Tensor = from_blocked(weight_scale.view(torch.uint8), rows, columns // BLOCK)
    return plain.view(torch.float8_e4m3fn)


def decode_rows(packed: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor, columns: int) -> torch.Tensor:
    """Float32 values [R, columns] of packed rows [R, K'/2] with plain block scales [R, K'/16]."""
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(1)
    blocks = e2m1_decode(codes).reshape(packed.shape[0], -1, BLOCK)
    return (blocks * (scales.float() * tensor_scale.float()).unsqueeze(-1)).flatten(1)[:, :columns]


def decode(tensors: Mapping[str, torch.Tensor], shape: tuple[int, int]) -> torch.Tensor:
    """Float32 weight [N, K] of the stored tensors."""
    scales = unblocked_scales(tensors["weight_scale"], shape)
    return decode_rows(tensors["weight"], scales, tensors["weight_scale_2"], shape[1])[: shape[0]]
