from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.calibration import CalibrationError
from nvfp4_studio.calibration.exact import GRID, added, to_float, to_limbs

VALUES = st.floats(-(2.0**68), 2.0**68, allow_nan=False)


def exactly(limbs: torch.Tensor) -> Fraction:
    high, low = limbs.tolist()
    assert 0 <= low < 1 << 50
    return Fraction(high) * 2**10 + Fraction(low) / 2**40


@settings(deadline=None)
@given(VALUES)
def test_a_value_is_rounded_once_to_the_grid(value: float) -> None:
    limbs = to_limbs(torch.tensor(value, dtype=torch.float64))
    assert abs(exactly(limbs) - Fraction(value)) <= Fraction(GRID) / 2
    assert float(to_float(limbs)) == pytest.approx(value, rel=1e-15, abs=GRID)


@settings(deadline=None)
@given(VALUES, VALUES, VALUES)
def test_adding_is_exact_in_any_order(a: float, b: float, c: float) -> None:
    x, y, z = (to_limbs(torch.tensor(value, dtype=torch.float64)) for value in (a, b, c))
    total = added(added(x, y), z)
    assert exactly(total) == exactly(x) + exactly(y) + exactly(z)
    assert torch.equal(total, added(z, added(y, x)))


@pytest.mark.parametrize("value", [2.0**71, -(2.0**71), float("inf"), float("nan")])
def test_what_does_not_fit_is_an_error(value: float) -> None:
    with pytest.raises(CalibrationError, match="too large to sum their squares"):
        to_limbs(torch.tensor([1.0, value]))


def test_a_sum_that_does_not_fit_is_an_error() -> None:
    largest = to_limbs(torch.tensor([2.0**70.9], dtype=torch.float64))
    with pytest.raises(CalibrationError, match="merge fewer"):
        added(added(largest, largest), largest)
