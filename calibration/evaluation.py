"""One evaluation of the model: when it is in the noise schedule, which passes it makes, what has been measured in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .coverage import SCHEDULE_BINS
from .shared_inputs import SharedInputs
from .sums import Moment


class Evaluation:
    """One evaluation of the model: its noise level on each device, and the inputs measured so far."""

    def __init__(self, noise_level: float | torch.Tensor, passes: Sequence[int], turn: int, together: int) -> None:
        self.shared = SharedInputs(together)
        self.ran = False
        self.turn = turn
        self.passes = tuple(min(1, max(0, number)) for number in passes) or (0,)
        number = _bin_of(torch.as_tensor(noise_level).detach())
        self.device = number.device
        bins = torch.arange(SCHEDULE_BINS, device=self.device) == number
        self._moments = {self.device: Moment(bins, number, self.passes)}

    def moment_on(self, device: torch.device) -> Moment:
        """The evaluation's bin and passes, with tensors on `device`."""
        if device not in self._moments:
            here = self._moments[self.device]
            # Only a GPU puts its work behind the copy; a CPU would read what has not come yet.
            ahead = device.type != "cpu"
            bins, number = (part.to(device, non_blocking=ahead) for part in (here.bins, here.number))
            self._moments[device] = Moment(bins, number, self.passes)
        return self._moments[device]


def _bin_of(level: torch.Tensor) -> torch.Tensor:
    """int64 [1]: the bin of the highest of some noise levels, on their device; a GPU is not waited for."""
    if level.is_cpu and level.numel() == 1:
        value = level.item()
        return torch.tensor([0 if value != value else int(max(0.0, min(value * SCHEDULE_BINS, SCHEDULE_BINS - 1)))])
    highest = level.to(torch.float32).amax() if level.numel() else torch.zeros((), device=level.device)
    return (torch.nan_to_num(highest, nan=0.0) * SCHEDULE_BINS).clamp(0, SCHEDULE_BINS - 1).to(torch.int64).reshape(1)
