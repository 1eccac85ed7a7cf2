"""Statistics of one layer's inputs at hand, without a model that runs."""

from __future__ import annotations

from dataclasses import replace

import torch

from nvfp4_studio.calibration import LayerStatistics
from nvfp4_studio.calibration.detail import SCALES
from nvfp4_studio.calibration.observers import Observation
from nvfp4_studio.calibration.sums import DeviceSums, Moment


class LayerObserver:
    """Accumulates the observations of one layer on one device, however many there are.

    >>> observer = LayerObserver(torch.device("cpu"))
    >>> observer.observe(observe(inputs), torch.arange(16) == 15)
    >>> statistics = observer.finish(in_features=64, out_features=128)
    """

    def __init__(self, device: torch.device, detail: str = SCALES) -> None:
        self._sums = DeviceSums(device, detail)

    def observe(self, seen: Observation, schedule_bin: torch.Tensor, passes: tuple[int, ...] = (0,)) -> None:
        """Add one call, once. `schedule_bin`: bool [16] on the same device, true at the call's noise level."""
        number = schedule_bin.to(torch.int64).argmax().reshape(1)
        self._sums.add(replace(seen, layers=[""]), Moment(schedule_bin, number, passes))

    def finish(self, in_features: int, out_features: int) -> LayerStatistics:
        """Bring the sums to the host; may be called at any time, and observing may go on afterwards."""
        found = self._sums.finish()
        return replace(found[("",)], in_features=in_features, out_features=out_features)
