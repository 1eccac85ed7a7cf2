"""The predicted error of an NVFP4 input against rounding it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from nvfp4_studio.calibration import LayerStatistics, import_json, observe
from nvfp4_studio.calibration.policies import effects
from nvfp4_studio.calibration.prediction import block_model
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver

ROWS, CHANNELS = 4096, 256
LEVELS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@lru_cache
def inputs(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, CHANNELS, generator=generator)
    if kind == "channels":
        x[:, ::50] *= 30
    elif kind == "rows":
        x *= torch.exp(torch.randn(ROWS, 1, generator=generator))
    elif kind == "gelu":
        x = torch.nn.functional.gelu(2 * x)
    elif kind == "heavy tails":
        x = torch.exp(x) * torch.randn(ROWS, CHANNELS, generator=generator).sign()
    return x


@lru_cache
def statistics_of(x: torch.Tensor) -> LayerStatistics:
    observer = LayerObserver(torch.device("cpu"))
    for call in x.split(16):
        seen = observe(call)
        assert seen is not None
        observer.observe(seen, torch.arange(16) == 15)
    return observer.finish(CHANNELS, 8)


def measured_db(x: torch.Tensor, amax: float) -> float:
    """NVFP4 by its definition, written anew and plainly."""
    tensor_scale = amax / (448 * 6)
    blocks = x.reshape(-1, 16)
    wanted = blocks.abs().amax(1, keepdim=True) / 6 / tensor_scale
    scales = wanted.clamp(max=448).to(torch.float8_e4m3fn).float() * tensor_scale
    values = torch.where(scales > 0, blocks / scales.clamp(min=1e-30), torch.zeros(()))
    nearest = (values.abs().clamp(max=6)[..., None] - LEVELS).abs().argmin(-1)
    error = blocks - LEVELS[nearest] * values.sign() * scales
    return 10 * math.log10(float(blocks.double().square().sum() / error.double().square().sum()))


KINDS = ["normal", "channels", "rows", "gelu", "heavy tails"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headroom", [1, 2, 64])
def test_rounding_is_predicted_within_one_decibel(kind: str, headroom: float) -> None:
    x = inputs(kind)
    model = block_model(statistics_of(x))
    assert model is not None
    amax = float(x.abs().max())
    assert model.sqnr_db(amax * headroom) == pytest.approx(measured_db(x, amax * headroom), abs=1.0)
    assert model.sqnr_db(None) == model.sqnr_db(amax)


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_is_predicted_within_two_decibels(kind: str) -> None:
    x = inputs(kind)
    model = block_model(statistics_of(x))
    assert model is not None
    for share in (0.125, 0.25, 0.5):
        amax = float(x.abs().max()) * share
        assert model.sqnr_db(amax) == pytest.approx(measured_db(x, amax), abs=2.0)


def test_small_blocks_lose_resolution_and_are_lost() -> None:
    x = inputs("normal")
    statistics = statistics_of(x)
    model = block_model(statistics)
    assert model is not None
    amax = float(x.abs().max())
    for factor in (2.0**12, 2.0**16, 2.0**18):
        blocks = x.abs().reshape(-1, 16).amax(1)
        lost = float((blocks < amax * factor / 448 / 1024).float().mean())
        assert model.sqnr_db(amax * factor) == pytest.approx(measured_db(x, amax * factor), abs=1.0)
        assert model.lost(amax * factor) == pytest.approx(lost, abs=0.05)
    assert model.lost(amax) == 0


def test_every_policy_on_one_layer() -> None:
    found = effects(statistics_of(inputs("heavy tails")), "a")
    assert all(effect is not None for effect in found.values())
    default, narrow = found["p99.9"], found["elements-p99.9"]
    assert default is not None and narrow is not None
    assert default.amax is not None and default.input_scale == default.amax / 2688
    assert default.clip_rate == 0 and 0.0005 < (narrow.clip_rate or 0) <= 0.001
    assert default.sqnr_db is not None and narrow.sqnr_db is not None
    assert default.sqnr_db > narrow.sqnr_db + 2


def test_without_histograms_nothing_is_predicted(tmp_path: Path) -> None:
    path = tmp_path / "flat.json"
    path.write_text('{"a": 3.0}')
    found = effects(import_json(path).layers["a"], "a")
    assert found["elements-p99.9"] is None
    default = found["p99.9"]
    assert default is not None and (default.amax, default.sqnr_db, default.lost_rate) == (6.0, None, None)


def test_zeros_are_no_blocks() -> None:
    assert block_model(statistics_of(torch.zeros(32, CHANNELS))) is None
