"""Small models and calibrations made from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nvfp4_studio.calibration import Calibration, Collector


class Attention(nn.Module):
    """q, k and v of one input, and a projection of what comes out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_out(self.to_q(x) * self.to_k(x).sigmoid() + self.to_v(x))


class SmallModel(nn.Module):
    """Two blocks, and a layer that never runs."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(width), Attention(width)])
        self.unused = nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.fixture
def small_model() -> SmallModel:
    torch.manual_seed(0)
    return SmallModel()


@pytest.fixture
def sampled(small_model: SmallModel) -> Callable[[list[tuple[int, float]]], Calibration]:
    """A calibration of the small model, one evaluation per (seed of the input, noise level)."""

    def run(evaluations: list[tuple[int, float]]) -> Calibration:
        collector = Collector(small_model)
        with torch.inference_mode():
            for seed, level in evaluations:
                generator = torch.Generator().manual_seed(seed)
                x = torch.randn(2, 3 + seed % 4, 32, generator=generator) * (1 + seed % 7)
                with collector.observing(level):
                    small_model(x)
        return collector.finish(images=1)

    return run
