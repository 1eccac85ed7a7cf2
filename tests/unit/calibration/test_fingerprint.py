from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from nvfp4_studio.calibration import (
    Calibration,
    CalibrationError,
    Collector,
    alike,
    mismatches,
    sample_rows,
    samples_from_rows,
    tensor_samples,
)
from nvfp4_studio.calibration.fingerprint import UNKNOWN


def weight(seed: int, shape: tuple[int, int] = (96, 64), scale: float = 0.05) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def rounded(values: torch.Tensor, how: str) -> torch.Tensor:
    if how == "bf16":
        return values.bfloat16()
    if how == "fp8 cast":
        return values.to(torch.float8_e4m3fn)
    if how == "fp8 scaled":
        scale = values.abs().max() / 448
        return (values / scale).to(torch.float8_e4m3fn).float() * scale
    steps = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    blocks = values.reshape(-1, 16)
    scale = blocks.abs().amax(1, keepdim=True) / 6
    codes = (blocks.abs() / scale)[..., None].sub(steps).abs().argmin(-1)
    return (steps[codes] * blocks.sign() * scale).reshape(values.shape)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 2), (2, 16), (4096, 7), (48, 128)])
def test_the_places_are_sixteen_on_four_rows_inside_of_the_weight(shape: tuple[int, int]) -> None:
    numbered = torch.arange(shape[0] * shape[1], dtype=torch.float32).reshape(shape)
    rows = sample_rows(shape)
    assert len(rows) == 4 and all(0 <= row < shape[0] for row in rows)
    found = tensor_samples(numbered, shape)
    assert found.shape == (16,)
    assert torch.equal(found, samples_from_rows(numbered[rows], shape))
    if min(shape) >= 16:
        assert len(set(found.tolist())) == 16


def test_rounding_to_any_format_is_the_same_model() -> None:
    for seed in range(20):
        original = weight(seed)
        formats = [
            tensor_samples(rounded(original, how), (96, 64)) for how in ("bf16", "fp8 cast", "fp8 scaled", "nvfp4")
        ]
        for a, b in itertools.combinations(formats, 2):
            assert alike(a, b)


def test_other_weights_are_another_model() -> None:
    for seed in range(20):
        assert not alike(tensor_samples(weight(seed), (96, 64)), tensor_samples(weight(seed + 100), (96, 64)))


def test_what_cannot_be_compared_is_alike() -> None:
    assert alike(UNKNOWN, torch.ones(16)) and alike(torch.zeros(16), torch.zeros(16))
    assert tensor_samples(torch.zeros(4, 4, device="meta"), (4, 4)) is UNKNOWN
    assert tensor_samples(torch.zeros(4, 2, dtype=torch.uint8), (4, 4)) is UNKNOWN
    broken = torch.full((4, 4), float("nan"))
    assert tensor_samples(broken, (4, 4)).tolist() == [0.0] * 16


def calibration(model: nn.Module) -> Calibration:
    collector = Collector(model)
    with collector.observing(0.5):
        model(torch.ones(2, 64))
    return collector.finish()


def model_of(seed: int, dtype: str = "bf16") -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 96, bias=False), nn.Linear(96, 64, bias=False))
    for number, layer in enumerate(model):
        layer.weight = nn.Parameter(rounded(weight(seed + number, tuple(layer.weight.shape)), dtype).float())
    return model


def test_calibrations_of_two_checkpoints_of_one_shape_do_not_merge() -> None:
    first = calibration(model_of(1))
    merged = first.merged(calibration(model_of(1, "fp8 scaled")))
    assert merged.same_as(calibration(model_of(1, "fp8 scaled")).merged(first))
    with pytest.raises(CalibrationError, match=r"the weights of 2 layers differ \(0, 1\); merge calibrations of one"):
        merged.merged(calibration(model_of(7)))


def test_mismatches_name_layers_with_other_weights() -> None:
    found = calibration(model_of(1))
    shapes = {"0": (96, 64), "1": (64, 96)}
    other = {"0": tensor_samples(weight(9), (96, 64)), "1": found.layers["1"].weight_samples}
    assert mismatches(found, shapes, other) == ["0 has other weights than when it was calibrated"]
    assert mismatches(found, shapes, {}) == mismatches(found, shapes) == []
