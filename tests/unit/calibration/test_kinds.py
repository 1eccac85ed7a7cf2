"""Which layers are of one type."""

from __future__ import annotations

import pytest

from nvfp4_studio.calibration.kinds import kinds


def test_blocks_are_one_type_and_layers_of_an_mlp_are_two() -> None:
    names = [f"transformer_blocks.{block}.img_mlp.net.{layer}" for block in range(60) for layer in ("0.proj", "2")]
    found = kinds(names)
    assert list(found) == names
    assert set(found.values()) == {"transformer_blocks.N.img_mlp.net.0.proj", "transformer_blocks.N.img_mlp.net.2"}


@pytest.mark.parametrize(
    ("names", "types"),
    [
        (["blocks.0.a", "blocks.11.a"], ["blocks.N.a", "blocks.N.a"]),
        (["blocks.0.a", "blocks.1.b"], ["blocks.0.a", "blocks.1.b"]),
        (["mlp.0", "mlp.2", "img_in"], ["mlp.0", "mlp.2", "img_in"]),
        (["in.1.0.x", "in.1.1.x", "in.2.0.x"], ["in.N.N.x", "in.N.N.x", "in.N.N.x"]),
        (["in.4.1.b.0.q", "in.7.1.b.9.q"], ["in.N.1.b.N.q", "in.N.1.b.N.q"]),
        ([], []),
    ],
)
def test_a_number_is_a_blocks_when_another_stands_in_its_place(names: list[str], types: list[str]) -> None:
    assert list(kinds(names).values()) == types
