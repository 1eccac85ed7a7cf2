from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nvfp4_studio.calibration.errors import CalibrationError
from nvfp4_studio.calibration.histogram import (
    BINS,
    RAW_BINS,
    bin_index,
    fold,
    fraction_above,
    lower_edges,
    percentile,
    upper_edges,
)

MAGNITUDES = st.floats(min_value=0.0, max_value=2.0**39, width=32)
SAMPLES = hnp.arrays(np.float32, st.integers(1, 400), elements=MAGNITUDES)


def histogram_of(values: torch.Tensor) -> torch.Tensor:
    return torch.bincount(bin_index(values).flatten(), minlength=BINS)


def exact_percentile(values: np.ndarray, q: float) -> float:
    """Nearest rank, with the decimal q taken literally."""
    from fractions import Fraction

    rank = max(1, math.ceil(Fraction(str(q)) / 100 * len(values)))
    return float(np.sort(values)[rank - 1])


def test_edges_are_eighths_of_octaves_from_2_to_the_minus_40_to_2_to_the_40() -> None:
    lower, upper = lower_edges(), upper_edges()
    assert lower.shape == upper.shape == (641,) and lower.dtype == torch.float64
    assert lower[0] == 0 and upper[0] == 2.0**-40 and upper[-1] == 2.0**40
    assert torch.equal(lower[1:], upper[:-1])
    assert float((upper[1:] / lower[1:]).max()) == pytest.approx(9 / 8)
    assert lower[1 + 8 * 40 : 1 + 8 * 40 + 4].tolist() == [1.0, 1.125, 1.25, 1.375]


@given(st.lists(MAGNITUDES, min_size=1, max_size=50))
def test_every_value_lies_between_the_edges_of_its_bin(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    index = bin_index(tensor)
    assert bool((lower_edges()[index] <= tensor.double()).all())
    assert bool((tensor.double() < upper_edges()[index]).all())


def test_a_value_has_the_same_bin_in_every_dtype_and_with_either_sign() -> None:
    values = torch.randn(4096, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    wanted = bin_index(values.to(torch.float32))
    for dtype in (torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(bin_index(values.to(torch.float32).to(dtype)), wanted), dtype
    assert torch.equal(bin_index(-values.to(torch.float32)), wanted)


def test_zero_and_tiny_values_share_bin_0_and_huge_ones_the_last() -> None:
    assert bin_index(torch.tensor([0.0, -0.0, 2.0**-41, 1e-45])).tolist() == [0, 0, 0, 0]
    assert bin_index(torch.tensor([2.0**-40, 2.0**40, 3e38])).tolist() == [1, 640, 640]


def test_fold_keeps_every_finite_count_and_drops_nan_and_infinity() -> None:
    raw = torch.arange(RAW_BINS, dtype=torch.int64)
    folded = fold(raw)
    assert folded.shape == (BINS,)
    assert int(folded.sum()) == sum(range(2040))
    values = torch.randn(1000, generator=torch.Generator().manual_seed(2)) * 1e-10
    by_pattern = torch.bincount((values.view(torch.int32) & 0x7FFFFFFF) >> 20, minlength=RAW_BINS)
    assert torch.equal(fold(by_pattern), histogram_of(values))


@given(SAMPLES, st.sampled_from([0, 0.1, 1, 25, 50, 90, 99, 99.9, 99.99, 100]))
def test_percentile_is_at_most_a_bin_above_the_exact_one(values: np.ndarray, q: float) -> None:
    exact = exact_percentile(values, q)
    found = percentile(histogram_of(torch.from_numpy(values)), q, maximum=float(values.max()))
    assert exact <= found <= max(exact * 9 / 8, 2.0**-40)


@given(SAMPLES)
def test_the_last_rank_gives_the_exact_maximum(values: np.ndarray) -> None:
    histogram = histogram_of(torch.from_numpy(values))
    assert percentile(histogram, 100, maximum=float(values.max())) == float(values.max())


def test_99_9_percent_of_1000_is_the_999th_value() -> None:
    values = torch.cat((torch.ones(999), torch.tensor([1000.0])))
    assert percentile(histogram_of(values), 99.9, maximum=1000.0) == 1.125
    assert percentile(histogram_of(values), 99.91, maximum=1000.0) == 1000.0


def test_percentile_without_zeros() -> None:
    values = torch.tensor([0.0] * 99 + [5.0])
    assert percentile(histogram_of(values), 1, maximum=5.0, ignore_zero=True) == 5.0
    assert percentile(histogram_of(values), 1, maximum=5.0) == 2.0**-40
    assert percentile(torch.zeros(BINS, dtype=torch.int64), 50) == 0.0


def test_percentile_refuses_what_it_cannot_read() -> None:
    with pytest.raises(CalibrationError, match="between 0 and 100, got 101"):
        percentile(torch.zeros(BINS, dtype=torch.int64), 101)
    with pytest.raises(CalibrationError, match="641 bins"):
        percentile(torch.zeros(5, dtype=torch.int64), 50)


@given(SAMPLES, MAGNITUDES)
def test_fraction_above_is_within_the_share_of_one_bin(values: np.ndarray, threshold: float) -> None:
    histogram = histogram_of(torch.from_numpy(values))
    exact = float((values > threshold).mean())
    one_bin = int(histogram[bin_index(torch.tensor(threshold))]) / len(values)
    assert abs(fraction_above(histogram, threshold) - exact) <= one_bin + 1e-12


def test_fraction_above_at_an_edge_is_exact() -> None:
    histogram = histogram_of(torch.tensor([0.5, 0.9, 1.0, 3.0]))
    assert fraction_above(histogram, 1.0) == 0.5
    assert fraction_above(histogram, -1.0) == 1.0
    assert fraction_above(torch.zeros(BINS, dtype=torch.int64), 1.0) == 0.0
