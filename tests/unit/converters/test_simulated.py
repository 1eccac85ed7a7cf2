"""Formats without a kernel in ComfyUI: their levels, their sizes, and what is exact in them."""

from __future__ import annotations

import pytest
import torch

from nvfp4_studio.converters.sweep.simulated import SIMULATED, Grouped

GROUPED = {name: stored for name, stored in SIMULATED.items() if isinstance(stored, Grouped)}


def weight(rows: int = 8, columns: int = 200) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", GROUPED)
def test_groups_have_as_many_levels_as_bits_allow(name: str) -> None:
    stored = GROUPED[name]
    decoded = stored.rows(weight())
    assert decoded.shape == (8, 200)
    for first in range(0, 200, stored.group):
        group = decoded[:, first : first + stored.group]
        assert max(len(row.unique()) for row in group) <= 2**stored.bits
        step = weight()[:, first : first + stored.group].aminmax(dim=1, keepdim=True)
        width = (step.max.clamp(min=0) - step.min.clamp(max=0)) / (2**stored.bits - 1)
        assert ((group - weight()[:, first : first + stored.group]).abs() <= width * 1.01).all()


@pytest.mark.parametrize("name", SIMULATED)
def test_zeros_stay_zeros(name: str) -> None:
    assert not SIMULATED[name].rows(torch.zeros(2, 128)).any()


def test_more_bits_are_closer() -> None:
    errors = [
        float((SIMULATED[name].rows(weight()) - weight()).square().mean())
        for name in ("fp8-row", "int4-g128", "int3-g128", "int2-g64")
    ]
    assert errors == sorted(errors)


def test_fp8_rows_are_those_of_e4m3() -> None:
    values = weight(4, 64)
    scale = values.abs().amax(dim=1, keepdim=True) / 448
    assert torch.equal(SIMULATED["fp8-row"].rows(values), (values / scale).to(torch.float8_e4m3fn).float() * scale)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fp8-row", 256 * 256 + 4 * 256),
        ("int4-g128", (256 * 256 + 512) // 2 + 2 * 512),
        ("int3-g128", (256 * 256 + 512) * 3 // 8 + 2 * 512),
        ("int2-g64", (256 * 256 + 1024) // 4 + 2 * 1024),
    ],
)
def test_sizes(name: str, size: int) -> None:
    assert SIMULATED[name].bytes((256, 256)) == size
