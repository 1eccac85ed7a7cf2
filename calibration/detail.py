"""The levels of detail, and what each costs before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from .curvature import BLOCK, triangle
from .errors import CalibrationError
from .reservoir import ROWS
from .selection import features, linear_layers

SCALES, CHANNELS, CURVATURE = DETAILS = ("scales", "channels", "curvature")
DEFAULT_DETAIL = SCALES
DETAIL_HELP: dict[str, str] = {
    SCALES: "amax and histograms, about 16 KB a layer: enough for input scales. Sampling takes 1 to 5 % longer on a CPU, more in tiny models.",
    CHANNELS: "also amax and mean square of each input channel, 20 bytes a channel: for weighted rounding and "
    "pre_quant_scale. Sampling takes 1 to 10 % longer on a CPU.",
    CURVATURE: "also X^T X in blocks of 128 channels and 64 input rows a layer, about 0.7 KB a channel (1.7 GB for "
    "Qwen-Image): for GPTQ and measured output errors. Sampling takes 4 to 40 % longer on a CPU.",
}
_SCALES_FILE = 3 * 641 * 8 + 600
"""Bytes of a layer in the file: three histograms, the schedule, the folds, samples and its description."""
_SCALES_DEVICE = 3 * 2048 * 8 + 200


@dataclass(frozen=True)
class Cost:
    """Bytes that a level of detail takes: at most so many on disk, about so many on the device while sampling."""

    file: int
    device: int


def checked(detail: str) -> str:
    """`detail` itself. Raises CalibrationError for anything but one of DETAILS."""
    if detail not in DETAILS:
        raise CalibrationError(f"Unknown level of detail {detail!r:.40}; choose one of {', '.join(DETAILS)}.")
    return detail


def details_cost(model: nn.Module | Mapping[str, tuple[int, int]], detail: str = DEFAULT_DETAIL) -> Cost:
    """What calibrating a model at this level costs: on disk at most, on the device about.

    There tables of counts grow by doubling, and a layer that shares its input only sometimes has sums of its own beside.

    model: the diffusion model, or layer name -> (out_features, in_features). Layers with equal inputs (q, k
    and v) share what is kept of their channels; before anything has run that can only be guessed, from layers
    of one parent module with the same in_features.
    """
    checked(detail)
    shapes = _shapes(model) if isinstance(model, nn.Module) else model
    file, device = _SCALES_FILE * len(shapes), _SCALES_DEVICE * len(shapes)
    shared = {(name.rpartition(".")[0], sides[1]): sides[1] for name, sides in shapes.items()}
    for channels in shared.values():
        if detail != SCALES:
            file, device = file + 20 * channels, device + 8 * channels
        if detail == CURVATURE:
            whole, rest = divmod(channels, BLOCK)
            file += 8 * (whole * triangle(BLOCK) + triangle(rest)) + ROWS * (2 * channels + 16)
            device += 4 * (whole * BLOCK**2 + rest**2) + ROWS * (2 * channels + 16)
    return Cost(file, device)


def _shapes(root: nn.Module) -> dict[str, tuple[int, int]]:
    found = {name: features(module) for name, module in linear_layers(root)[0].items()}
    return {name: (shape[1], shape[0]) for name, shape in found.items() if shape is not None}
