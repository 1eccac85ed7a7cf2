"""Encoding in pieces of rows, for formats whose rows are independent: memory holds one piece in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .format import Encoding
from .staging import through
from .weight import Weight, finite

WEIGHTS_AT_ONCE = 1 << 20
"""Weights encoded at once on a CPU: temporaries of 4 MiB."""
CUDA_WEIGHTS_AT_ONCE = 1 << 25


def in_pieces(
    weight: Weight,
    encoding: Encoding,
    encode: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    multiple: int = 1,
) -> dict[str, torch.Tensor]:
    """Encode rows piece by piece (see ``pieces_of``) and join the results along their first dimension.

    Args:
        encode: what becomes of float32 rows [R, K] on the encoding's device.
        multiple: the number of rows of every piece but the last is a multiple of it.
    """
    suffixes: list[str] = []

    def compute(piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = encode(piece)
        suffixes[:] = encoded
        return tuple(encoded.values())

    parts = list(through(encoding.device, pieces_of(weight, encoding, multiple), compute))
    return {suffix: joined(list(column)) for suffix, column in zip(suffixes, zip(*parts, strict=True), strict=True)}


def pieces_of(weight: Weight, encoding: Encoding, multiple: int = 1) -> Iterator[torch.Tensor]:
    """Yield all rows as float32 [R, K] on the CPU.

    Float32 whatever the source's dtype: comfy-kitchen divides by the scale in the dtype that it is given,
    and bfloat16 has fewer digits than an INT8 weight.

    Raises:
        ConversionError: the weight holds NaN or infinity.
        SourceError: its scale is no positive number.
    """
    rows, columns = weight.shape
    at_once = WEIGHTS_AT_ONCE if encoding.device.type == "cpu" else CUDA_WEIGHTS_AT_ONCE
    step = max(1, at_once // (columns * multiple)) * multiple
    for first in range(0, rows, step):
        encoding.check()
        piece = weight.rows(first, min(rows, first + step)).float()
        finite(piece.abs().amax(), weight.name)
        yield piece


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate along the first dimension, as bytes: not every torch joins every FP8 type."""
    if len(parts) == 1:
        return parts[0].contiguous()
    return torch.cat([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)
