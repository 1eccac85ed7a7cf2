"""Errors by type of layer."""

from __future__ import annotations

import pytest

from nvfp4_studio.calibration.kinds import kinds
from nvfp4_studio.converters.groups import error_groups
from nvfp4_studio.converters.measure import LayerError

NAMES = [f"transformer_blocks.{block}.img_mlp.net.{layer}" for block in range(3) for layer in ("0.proj", "2")]


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_types_are_named_as_calibrations_name_them(prefix: str) -> None:
    errors = [LayerError(prefix + name, "bfloat16", "nvfp4", False, 20.0, 0.1, 0.99) for name in NAMES]
    assert [row["group"] for row in error_groups(errors)] == list(dict.fromkeys(kinds(NAMES).values()))


def test_a_type_of_which_one_layer_changed_is_known_by_the_others() -> None:
    error = LayerError(NAMES[0], "bfloat16", "nvfp4", False, 20.0, 0.1, 0.99)
    assert [row["group"] for row in error_groups([error], NAMES)] == ["transformer_blocks.N.img_mlp.net.0.proj"]
