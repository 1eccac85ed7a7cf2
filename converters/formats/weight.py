"""A weight as a source stores it: what every format encodes from."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from ..errors import ConversionError, SourceError

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Weight:
    """One layer's weight before it is quantized.

    ``name`` is for errors. ``stored`` is [N, K] of a float dtype; FP8 is meant times ``scale``, one value
    or one a row, None for a raw cast. ``divisor``: what its input channels are divided by on the way out, [K].
    """

    name: str
    stored: torch.Tensor
    scale: torch.Tensor | None = None
    divisor: torch.Tensor | None = None

    @property
    def is_fp8(self) -> bool:
        return self.stored.dtype in FP8_DTYPES

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.stored.shape[0], self.stored.shape[1]

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows ``first`` to ``last`` (exclusive): FP8 upcast to float32, anything else in its own dtype.

        With a divisor they are float32.

        Raises:
            SourceError: see ``upcast``.
        """
        rows = self._stored_rows(first, last)
        return rows if self.divisor is None else rows.float() / self.divisor.float()

    def _stored_rows(self, first: int, last: int) -> torch.Tensor:
        rows = self.stored[first:last]
        if not self.is_fp8:
            return rows
        if self.scale is not None and one_a_row(self.name, tuple(self.scale.shape), self.stored.shape[0]):
            return upcast(rows, self.scale.reshape(-1)[first:last], self.name)
        if rows.shape[1] % 2:
            return upcast(rows, self.scale, self.name)
        index = rows.contiguous().view(torch.uint16).reshape(-1).int()
        return torch.index_select(self._pairs, 0, index).view(torch.float32).reshape(rows.shape)

    @functools.cached_property
    def _pairs(self) -> torch.Tensor:
        """int64 [65536]: the two float32 values of each pair of bytes, side by side, fetched as one number."""
        all_bytes = torch.arange(256, dtype=torch.uint8).view(self.stored.dtype)
        values = upcast(all_bytes.reshape(1, -1), self.scale, self.name).reshape(-1)
        first, second = values.repeat(256), values.repeat_interleave(256)  # the first is the low byte
        return torch.stack((first, second), dim=-1).view(torch.int64).reshape(-1)


def one_a_row(name: str, scale: tuple[int, ...], rows: int) -> bool:
    """Whether an FP8 weight's scales, given by their shape, are one a row; False for one a tensor.

    Block scales may be as many as there are rows, so that their number alone tells nothing.

    Raises:
        SourceError: neither.
    """
    if math.prod(scale) == 1:
        return False
    if scale in ((rows,), (rows, 1)):
        return True
    raise SourceError(
        f"Layer {name} has FP8 weight scales of shape {list(scale)} for {rows} rows, but only one a tensor or one a row "
        "can be read; convert from the BF16 original or from a release with one scale a tensor."
    )


def upcast(weight: torch.Tensor, scale: torch.Tensor | None, name: str) -> torch.Tensor:
    """Float32 values of an FP8 weight [N, K] (or of some of its rows, with their scales).

    Exact: every product of an FP8 value (at most 4 significant bits) and a float32 scale is computed in
    float32 and rounded once.

    Args:
        weight: float8_e4m3fn or float8_e5m2.
        scale: None for a raw cast, one value for the tensor, or one for each row.

    Raises:
        SourceError: scales of another shape, or one that is not finite and positive.
    """
    # By look-up, because torch converts FP8 on a CPU at a fifth of this speed.
    table = torch.arange(256, dtype=torch.uint8, device=weight.device).view(weight.dtype).float()
    index = weight.view(torch.uint8).reshape(-1).int()
    values = torch.index_select(table, 0, index).reshape(weight.shape)
    if scale is None:
        return values
    one_a_row(name, tuple(scale.shape), weight.shape[0])
    factor = scale.float()
    if not bool(torch.isfinite(factor).all()) or not bool((factor > 0).all()):
        raise SourceError(f"Layer {name} has a weight scale that is not a positive number; the source is damaged.")
    return values.mul_(factor.reshape(-1, 1))


def finite(amax: torch.Tensor, name: str) -> torch.Tensor:
    """Return a weight's largest magnitude if it is a number.

    Raises:
        ConversionError: NaN or infinity; no scale could hold such a weight.
    """
    if not bool(torch.isfinite(amax)):
        raise ConversionError(
            f"The weights of layer {name} hold NaN or infinity; the source is damaged, get it from its author again."
        )
    return amax
