"""Encoding in pieces of rows, for formats whose rows are independent: memory holds one piece in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .format import Encoding
from .staging import through
from .tiles import roundup
from .weight import Weight, finite

WEIGHTS_AT_ONCE = 1 << 20
"""Weights encoded at once on a CPU: temporaries of 4 MiB."""
CUDA_WEIGHTS_AT_ONCE = 1 << 25


def in_pieces(
    weight: Weight,
    encoding: Encoding,
    encode: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    multiple: int = 1,
    at_once: int | None = None,
) -> dict[str, torch.Tensor]:
    """Encode rows piece by piece (see ``pieces_of``) and join the results along their first dimension.

    Args:
        encode: from float32 rows [R, K] on the encoding's device to tensors by suffix, the same ones for every piece, each
            [R, …] of any dtype, or with R rounded up to ``multiple``.
        multiple: the number of rows of every piece but the last is a multiple of it.
        at_once: weights encoded at once on a CPU, for an ``encode`` with many temporaries; None for the usual number.
    """
    suffixes: list[str] = []

    def compute(piece: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = encode(piece)
        suffixes[:] = encoded
        return tuple(encoded.values())

    # The results have their memory before the temporaries of the pieces, between which they would scatter it.
    results: dict[str, torch.Tensor] = {}
    filled: dict[str, int] = {}
    for encoded in through(encoding.device, pieces_of(weight, encoding, multiple, at_once), compute):
        for suffix, part in zip(suffixes, encoded, strict=True):
            if suffix not in results:
                rows = roundup(weight.shape[0], multiple)
                results[suffix] = torch.empty((rows, *part.shape[1:]), dtype=part.dtype)
            first = filled.get(suffix, 0)
            filled[suffix] = first + len(part)
            # As bytes: not every torch copies every FP8 type.
            results[suffix][first : filled[suffix]].view(torch.uint8).copy_(part.contiguous().view(torch.uint8))
    return {suffix: results[suffix][:rows] for suffix, rows in filled.items()}


def pieces_of(
    weight: Weight, encoding: Encoding, multiple: int = 1, at_once: int | None = None
) -> Iterator[torch.Tensor]:
    """Yield all rows as float32 [R, K] on the CPU.

    Float32 whatever the source's dtype: comfy-kitchen divides by the scale in the dtype that it is given,
    and bfloat16 has fewer digits than an INT8 weight.

    Raises:
        ConversionError: the weight holds NaN or infinity.
        SourceError: its scale is no positive number.
    """
    rows, columns = weight.shape
    most = (at_once or WEIGHTS_AT_ONCE) if encoding.device.type == "cpu" else CUDA_WEIGHTS_AT_ONCE
    step = max(1, most // (columns * multiple)) * multiple
    for first in range(0, rows, step):
        encoding.check()
        piece = weight.rows(first, min(rows, first + step)).float()
        finite(piece.abs().amax(), weight.name)
        yield piece
