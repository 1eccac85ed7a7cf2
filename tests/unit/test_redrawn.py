"""Rounding with permuted channels: the same layer, other neighbours."""

from __future__ import annotations

import comfy_kitchen as ck
import pytest
import torch

from nvfp4_studio.benchmarks.quality.redrawn import draw_order, redrawn
from nvfp4_studio.calibration import Collector

ROWS, COLUMNS = 48, 192


@pytest.fixture(scope="module")
def layer():
    """A weight, inputs with correlated channels, and statistics of them."""
    generator = torch.Generator().manual_seed(0)
    root = torch.nn.ModuleDict({"layer": torch.nn.Linear(COLUMNS, ROWS)})
    mixing = torch.randn(24, COLUMNS, generator=generator)
    inputs = torch.randn(4096, 24, generator=generator) @ mixing + 0.3 * torch.randn(4096, COLUMNS, generator=generator)
    collector = Collector(root, detail="curvature")
    with collector.observing(0.5), torch.no_grad():
        root["layer"](inputs)
    return root["layer"].weight.detach(), inputs, collector.finish(images=1).layers["layer"]


def test_order_keeps_every_channel_in_its_block_of_the_hessian():
    order = draw_order(COLUMNS, torch.Generator().manual_seed(0))
    assert sorted(order[:128].tolist()) == list(range(128))
    assert sorted(order[128:].tolist()) == list(range(128, COLUMNS))
    assert order.tolist() != list(range(COLUMNS))


def test_in_the_old_order_nearest_is_what_the_kernels_decode(layer):
    weight, _, statistics = layer
    scale = weight.abs().amax() / 2688.0
    codes, blocks = ck.quantize_nvfp4(weight, scale)
    expected = ck.dequantize_nvfp4(codes, scale, blocks, torch.float32)
    assert torch.equal(redrawn(weight, "nearest", statistics, torch.arange(COLUMNS)), expected[:ROWS, :COLUMNS])


@pytest.mark.parametrize("rounding", ["nearest", "four-over-six", "block-search", "block-search-mse"])
def test_permuting_before_is_permuting_inside(layer, rounding):
    weight, _, statistics = layer
    order = draw_order(COLUMNS, torch.Generator().manual_seed(1))
    inside = redrawn(weight, rounding, statistics, order)
    before = redrawn(weight[:, order], rounding, statistics, torch.arange(COLUMNS))
    assert torch.equal(inside[:, order], before)
    assert not torch.equal(inside, redrawn(weight, rounding, statistics, torch.arange(COLUMNS)))


def test_statistics_follow_the_channels(layer):
    """Were they left in the old order, what they gain over nearest would be gone."""
    weight, inputs, statistics = layer
    order = draw_order(COLUMNS, torch.Generator().manual_seed(2))
    error = {
        rounding: (inputs @ (weight - redrawn(weight, rounding, statistics, order)).T).square().mean().item()
        for rounding in ("nearest", "weighted", "gptq")
    }
    assert error["gptq"] < 0.5 * error["nearest"]
    assert error["weighted"] < error["nearest"]
