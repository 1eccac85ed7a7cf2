"""FP8 weights with scales of every shape: one a tensor and one a row are read, everything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nvfp4_studio.converters import Options, SourceError, convert, make_plan, open_source
from nvfp4_studio.converters.formats import FORMATS, POLICIES, Encoding, Weight
from nvfp4_studio.converters.formats.weight import upcast
from nvfp4_studio.converters.rounding import nearest

LAYER = "blocks.0.a"


def _stored(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(2)).to(torch.float8_e4m3fn)


OTHER_SHAPES = {
    "one a column of a square weight": ((64, 64), (1, 64)),
    "blocks of 128 as many as there are rows": ((256, 16384), (2, 128)),
    "blocks of 32 as many as there are rows": ((64, 64), (32, 2)),
    "three dimensions": ((64, 64), (64, 1, 1)),
    "another number": ((64, 64), (32,)),
}


@pytest.mark.parametrize(("shape", "scales"), OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_other_scales_are_refused_when_the_plan_is_made(
    shape: tuple[int, int], scales: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"{LAYER}.weight": _stored(*shape), f"{LAYER}.weight_scale": torch.ones(scales)}, path)
    said = rf"Layer {LAYER} has FP8 weight scales of shape {list(scales)} for {shape[0]} rows.*convert from"
    with open_source(path) as source, pytest.raises(SourceError, match=said.replace("[", r"\[")):
        make_plan(source, Options(recipe="weight-only"))


@pytest.mark.parametrize("scales", [(1, 64), (8, 8), (32,)])
def test_no_reader_of_a_weight_takes_them(scales: tuple[int, ...]) -> None:
    weight = Weight("layer", _stored(64, 64), torch.ones(scales))
    for policy in POLICIES.values():
        with pytest.raises(SourceError, match="only one a tensor or one a row"):
            policy.encode(weight, Encoding(nearest))
    with pytest.raises(SourceError, match="only one a tensor or one a row"):
        upcast(weight.stored, weight.scale, "layer")

    class Held:
        name, shape, fields = "layer", (64, 64), {}

        def rows(self, first: int, last: int) -> torch.Tensor:
            return weight.stored[first:last]

        def tensor(self, suffix: str) -> torch.Tensor | None:
            return weight.scale

    with pytest.raises(SourceError, match="only one a tensor or one a row"):
        FORMATS["float8_e4m3fn"].decoder(Held())(0, 1)


@pytest.mark.parametrize("scales", [(), (1,), (1, 1), (64,), (64, 1)])
def test_one_a_tensor_and_one_a_row_are_converted(scales: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({f"{LAYER}.weight": _stored(64, 128), f"{LAYER}.weight_scale": torch.full(scales, 0.5)}, path)
    report = convert(path, tmp_path / "out.safetensors", Options(recipe="weight-only"))
    (layer,) = report.verification.layers
    assert layer.format == "nvfp4" and layer.sqnr_db is not None and layer.sqnr_db > 19
