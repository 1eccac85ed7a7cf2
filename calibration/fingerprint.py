"""A few values of each layer's weight, which tie statistics to a checkpoint.

Sixteen values a layer are enough because a whole model has hundreds of layers. They are read at places that
follow from the shape alone, on four rows only, so that a checkpoint on disk can be asked for the same
places without reading whole tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch

from .selection import features

SAMPLES = 16
_ROWS = _COLUMNS = 4
UNKNOWN = torch.zeros(0)
"""The samples of a layer whose weight nobody looked at."""

TOLERANCE = 0.25
ABSOLUTE = 2.0**-10
"""Half a step of E4M3 below its normal range: what a cast to FP8 without a scale does to small weights."""


def sample_rows(shape: tuple[int, int]) -> list[int]:
    """The four rows of a weight [out, in] that are sampled: the middles of its quarters."""
    return [(2 * index + 1) * shape[0] // (2 * _ROWS) for index in range(_ROWS)]


def sample_columns(shape: tuple[int, int], row: int) -> list[int]:
    """The four columns of the `row`-th (0..3) sampled row; each row has others."""
    return [((2 * index + 1) * shape[1] // (2 * _COLUMNS) + row) % shape[1] for index in range(_COLUMNS)]


def samples_from_rows(rows: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """float32 [16] from the four sampled rows [4, in] of a weight, in real units (scales applied)."""
    return _clean(rows[torch.arange(_ROWS)[:, None], _columns(shape)])


def _clean(picked: torch.Tensor) -> torch.Tensor:
    """NaN and infinities become 0 and -0 becomes 0, so that samples can be compared and ordered."""
    return torch.nan_to_num(picked.flatten().to(torch.float32), nan=0.0, posinf=0.0, neginf=0.0).cpu() + 0.0


@lru_cache(maxsize=256)
def _columns(shape: tuple[int, int]) -> torch.Tensor:
    """int64 [4, 4]."""
    with torch.inference_mode(False):
        return torch.tensor([sample_columns(shape, row) for row in range(_ROWS)])


@torch.no_grad()
def weight_samples(layers: Mapping[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The samples of each layer that holds a dense weight of its declared shape; others are left out."""
    found = {}
    for name, module in layers.items():
        weight = getattr(module, "weight", None)
        shape = features(module)
        if isinstance(weight, torch.Tensor) and shape is not None:
            found[name] = tensor_samples(weight, (shape[1], shape[0]))
    return found


@torch.no_grad()
def tensor_samples(weight: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """float32 [16] of a weight [out, in]; UNKNOWN for a meta tensor, another shape or no floats.

    A quantized tensor is taken as what it stands for (its `dequantize`), which for other layouts than FP8
    means computing the whole weight once.
    """
    with torch.inference_mode(False):
        weight = weight.detach()
        if type(weight).dequantize is not torch.Tensor.dequantize:
            weight = weight.dequantize()
        if weight.is_meta or tuple(weight.shape) != shape or not weight.dtype.is_floating_point or 0 in shape:
            return UNKNOWN
        # Through bytes, because torch picks values of every integer type but not of every FP8 type.
        stored = weight.view(torch.uint8) if weight.dtype.itemsize == 1 else weight
        return _clean(stored[torch.tensor(sample_rows(shape))[:, None], _columns(shape)].view(weight.dtype))


def alike(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two layers' samples are of the same weight, up to rounding; unknown ones are alike anything.

    The rule is |a - b| <= 0.25 max(|a|, |b|) + 4 * 2**-10 in Euclidean norms of the 16 values. Rounding to
    FP8 moves them by about 0.03 of their norm and to NVFP4 by about 0.1, a cast to FP8 without a scale by at
    most 2**-10 each, while unrelated weights differ by 1.4. A light fine-tune or LoRA counts as the same.
    """
    if not mine.numel() or not theirs.numel():
        return True
    a, b = mine.double(), theirs.double()
    bound = TOLERANCE * max(float(a.norm()), float(b.norm())) + ABSOLUTE * 4
    distance = float((a - b).norm())
    return distance <= bound


def differing(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[str]:
    """The layers of both whose samples are not alike, in alphabetical order."""
    return [name for name in sorted(mine.keys() & theirs.keys()) if not alike(mine[name], theirs[name])]


def combined(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """One of two alike samples, whichever way round they come: the known one, else the smaller in order."""
    if not mine.numel() or not theirs.numel():
        return mine if mine.numel() else theirs
    return min(mine, theirs, key=lambda samples: samples.tolist())
