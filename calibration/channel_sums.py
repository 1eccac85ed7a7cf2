"""What level of detail adds to the sums of a set of layers: channel amax, squares, and products of channels."""

from __future__ import annotations

import math

import torch

from .channels import ChannelStatistics
from .curvature import Curvature, curvature_of
from .exact import LIMIT
from .observers import Observation, Products
from .reservoir import Candidates, Reservoir


class ChannelSums:
    """Sums over the channels of one set of layers, on its device; a call with NaN or overflowing squares takes no part.

    ``rows``: int64 [], of the calls that took part. ``channel_amax``: float32 [K]. ``square_sums``: float32 [K], Σx² of each
    channel over rows, None where ``products`` (Xᵀ·X in blocks of 128 channels) have them on their diagonals.
    ``candidates`` are the rows kept so far, which whoever samples rows puts there.
    """

    def __init__(self, seen: Observation, device: torch.device) -> None:
        assert seen.channel_amax is not None
        self.features = seen.features
        self.rows = torch.zeros((), dtype=torch.int64, device=device)
        self.channel_amax = torch.zeros(seen.features, dtype=torch.float32, device=device)
        self.square_sums = (
            torch.zeros(seen.features, dtype=torch.float32, device=device) if seen.products is None else None
        )
        self.products = (
            Products(torch.zeros_like(seen.products.whole), torch.zeros_like(seen.products.tail))
            if seen.products
            else None
        )
        self.candidates: Candidates | None = None

    def add(self, seen: Observation) -> None:
        """Add one call; on a GPU nothing waits for it."""
        assert seen.channel_amax is not None and seen.square_sums is not None
        total = seen.square_sums.sum()
        pairs = [(self.square_sums, seen.square_sums)] if self.square_sums is not None else []
        if self.products is not None and seen.products is not None:
            pairs += [(self.products.whole, seen.products.whole), (self.products.tail, seen.products.tail)]
        if total.device.type == "cpu":
            if not math.isfinite(total.item()):
                return
            self.rows.add_(seen.rows)
            torch.maximum(self.channel_amax, seen.channel_amax, out=self.channel_amax)
            for kept_sums, more in pairs:
                kept_sums.add_(more)
            return
        usable = torch.isfinite(total)
        self.rows.add_(usable, alpha=seen.rows)
        torch.maximum(self.channel_amax, torch.where(usable, seen.channel_amax, 0.0), out=self.channel_amax)
        for kept_sums, more in pairs:
            kept_sums.add_(torch.where(usable, more, 0.0))

    def finish(self) -> tuple[ChannelStatistics | None, Curvature | None, Reservoir | None]:
        """What was summed, on the host; nothing where no call was usable, or all together leave the range that can be kept."""
        rows = int(self.rows)
        squares = self.square_sums if self.products is None else self.products.diagonal()
        assert squares is not None
        if rows == 0 or not bool((squares < LIMIT).all()):
            return None, None, None
        channels = ChannelStatistics.of(rows, self.channel_amax, squares)
        if self.products is None:
            return channels, None, None
        curvature = curvature_of(rows, self.features, self.products.whole, self.products.tail)
        return channels, curvature, Reservoir.of(self.candidates) if self.candidates else None
