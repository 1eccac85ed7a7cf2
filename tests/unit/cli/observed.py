"""Statistics as a sampling would leave them, for layers of any names."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from nvfp4_studio.calibration import LayerStatistics, observe
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver


def observed_layers(names: Iterable[str], width: int, seed: int) -> dict[str, LayerStatistics]:
    """One call of four random rows each, at the start of the schedule."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name in names:
        observer = LayerObserver(torch.device("cpu"))
        seen = observe(torch.randn(4, width, generator=generator))
        assert seen is not None
        observer.observe(seen, torch.arange(16) == 15)
        layers[name] = observer.finish(width, width)
    return layers
