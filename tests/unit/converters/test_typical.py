"""The typical errors are those of the formats."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nvfp4_studio.converters.formats import POLICIES, Encoding, Weight
from nvfp4_studio.converters.rounding import INFORMED, METHODS
from nvfp4_studio.converters.typical import NVFP4_SQNR_DB, typical_sqnr_db

SHAPE = (1024, 1024)
CHOICES = [
    (policy, method)
    for policy in POLICIES
    for method in (METHODS.keys() - INFORMED.keys() if policy == "nvfp4" else {"nearest"})
]


@pytest.mark.parametrize(("policy", "method"), sorted(CHOICES))
def test_normal_weights_have_the_typical_error(policy: str, method: str, decoded: Callable[..., torch.Tensor]) -> None:
    weight = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)) * 0.02).to(torch.bfloat16)
    stored = POLICIES[policy]
    fields = stored.POLICIES[policy]
    parts = stored.encode(Weight("layer", weight), Encoding(METHODS[method], fields=fields))
    noise = weight.double() - decoded(stored.NAME, parts, SHAPE, **fields).double()
    measured = float(10 * torch.log10(weight.double().square().sum() / noise.square().sum()))
    assert typical_sqnr_db(stored.NAME, method) == pytest.approx(measured, abs=0.1)


def test_every_method_has_a_figure() -> None:
    assert NVFP4_SQNR_DB.keys() == METHODS.keys()
    assert typical_sqnr_db("bfloat16", "") is None
