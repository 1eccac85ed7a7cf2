"""The tiles of block scales are those of comfy-kitchen, whose functions they stand in for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from comfy_kitchen.float_utils import from_blocked, to_blocked

from nvfp4_studio.converters.formats.tiles import tiled, untiled


@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (128, 4), (129, 5), (300, 17), (3072, 192), (640, 3)])
def test_tiles_are_comfy_kitchens(shape: tuple[int, int]) -> None:
    scales = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ours = tiled(scales)
    assert torch.equal(ours, to_blocked(scales, flatten=False))
    assert torch.equal(untiled(ours, *shape), scales)
    assert torch.equal(untiled(ours, *shape), from_blocked(ours, *shape))


def test_converting_to_nvfp4_imports_no_comfy_kitchen() -> None:
    code = "import sys, nvfp4_studio.converters; sys.exit('comfy_kitchen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
