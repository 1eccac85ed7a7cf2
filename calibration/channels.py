"""Statistics of each input channel: for diagonal-weighted search and pre_quant_scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .exact import added, to_float, to_limbs


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """rows: the rows that were summed. amax: float32 [K], largest magnitude of each channel.
    sums: int64 [K, 2], the sum of squares of each channel, exact under merging (see exact.py).
    """

    rows: int
    amax: torch.Tensor
    sums: torch.Tensor

    @classmethod
    def of(cls, rows: int, amax: torch.Tensor, square_sums: torch.Tensor) -> ChannelStatistics:
        """From one sampling's float [K] of each."""
        return cls(rows, amax.to(torch.float32).cpu().clone(), to_limbs(square_sums.cpu()))

    def merged(self, other: ChannelStatistics) -> ChannelStatistics:
        """Both together; exact, associative and commutative."""
        return ChannelStatistics(
            self.rows + other.rows, torch.maximum(self.amax, other.amax), added(self.sums, other.sums)
        )

    def mean_square(self) -> torch.Tensor:
        """E[x²] of each channel: float64 [K]."""
        return to_float(self.sums) / max(1, self.rows)

    def same_as(self, other: ChannelStatistics) -> bool:
        """Whether every number of both is identical."""
        return self.rows == other.rows and torch.equal(self.amax, other.amax) and torch.equal(self.sums, other.sums)
