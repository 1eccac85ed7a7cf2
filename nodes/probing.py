"""Measuring influence while a model is sampled: each model call is repeated with one layer disturbed."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..calibration import linear_layers
from ..converters.sensitivity import Prober, keep_beside, merged_influence


class Probing:
    """The probes of one sampling; what earlier ones found is added to.

    ``calibration`` is the file beside which the result is kept, ``anew`` forgets what is there. ComfyUI's own copies
    of a model on other GPUs are not probed, and nothing is while another node wraps the network: what it remembers of
    a call, as a cache does, would be that of the disturbed one. ``hindered`` then is True.

    ``noise`` is that of the sampling. Which of the layers that were probed least comes first depends on it: samplings
    of different seeds cover different layers, also those that each begin a file of their own to be merged later, and
    one sampling repeated anywhere probes the same ones.
    """

    def __init__(self, calibration: Path, noise: torch.Tensor, *, anew: bool) -> None:
        self._calibration = calibration
        self._order = zlib.crc32(noise.detach().float().cpu().numpy().tobytes())
        self._known = {} if anew else merged_influence([calibration])
        self._prober: Prober | None = None
        self._root: torch.nn.Module | None = None
        self.hindered = False
        self._lock = threading.Lock()

    def after(self, root: torch.nn.Module, x: torch.Tensor, result: Any, again: Callable[[], Any]) -> None:
        """Disturb the layer that was probed least, in a repetition of a call that gave ``result``.

        What a call gives is the picture without its noise, so ``x`` less it is what the network said, up to a factor.
        A call that gives something else than one picture of x's shape is left alone.
        """
        if not isinstance(result, torch.Tensor) or result.shape != x.shape:
            return
        with self._lock:
            if self._prober is None:
                self._root, self._prober = root, Prober(linear_layers(root)[0], self._known, order=self._order)
            prober = self._prober
        layer = prober.least_probed() if root is self._root else None
        if layer is not None:
            prober.probe(layer, result - x, lambda: again() - x)

    def possible(self, options: Mapping[str, Any]) -> bool:
        """Whether a call with these transformer options can be repeated without anybody noticing."""
        wrapped = any(options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).values())
        self.hindered = self.hindered or wrapped
        return not wrapped

    def finish(self) -> int:
        """Keep what was found and tell how many layers have been probed."""
        if self._prober is None:
            return 0
        keep_beside(self._prober.probes, self._calibration)
        return len(self._prober.probes)


def kept(value: Any) -> Any:
    """Dicts and lists copied, whatever is in them shared: models take ControlNet's outputs out of their lists."""
    if type(value) is dict:
        return {key: kept(item) for key, item in value.items()}
    return [kept(item) for item in value] if type(value) is list else value
