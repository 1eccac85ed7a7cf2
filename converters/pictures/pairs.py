"""Pairs of pictures to compare: what is accepted, and in which numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import PictureError

CHANNELS = (1, 3, 4)


def pairs(first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures of two batches ``[B, H, W, C]`` side by side: float64 ``[C, H, W]`` 0..1, on the CPU.

    One pair at a time, so that a video of many frames needs the memory of one. float64, because a mean of millions of
    squares and differences of nearly equal variances lose digits in float32. uint8 is divided by 255; a fourth channel
    is alpha, which no metric here knows, and is left out.

    Raises:
        PictureError: other shapes, or the two differ.
    """
    require_alike(first, second)
    return ((_unit(one), _unit(other)) for one, other in zip(first, second, strict=True))


def require_alike(first: Tensor, second: Tensor) -> None:
    """Raise :class:`PictureError` unless both are pictures ``[B, H, W, C]`` of one shape."""
    for pictures in (first, second):
        if pictures.ndim != 4 or pictures.shape[-1] not in CHANNELS or 0 in pictures.shape:
            raise PictureError(
                f"Pictures of shape {list(pictures.shape)} cannot be compared: "
                "give [batch, height, width, channels] with 1, 3 or 4 channels."
            )
    if first.shape != second.shape:
        raise PictureError(f"{described(first)} cannot be compared with {described(second)}: make both alike.")


def described(pictures: Tensor) -> str:
    """``4 pictures of 1024 x 768, 3 channels``: width before height, as people say it."""
    count, height, width, channels = pictures.shape
    plural = ("" if count == 1 else "s", "" if channels == 1 else "s")
    return f"{count} picture{plural[0]} of {width} x {height}, {channels} channel{plural[1]}"


def as_saved(pictures: Tensor) -> Tensor:
    """The uint8 ``[B, H, W, C]`` that ComfyUI's save nodes write: 255 x, cut to 0..255, rounded down.

    Metrics of these equal those that anybody computes from the saved PNG files.
    """
    return (255.0 * pictures.cpu()).nan_to_num(0.0).clamp(0, 255).to(torch.uint8)


def nonfinite(pictures: Tensor) -> list[int]:
    """Numbers of the pictures that hold NaN or infinity: what a model that overflowed leaves; saved, they are black."""
    return [number for number, picture in enumerate(pictures) if not bool(torch.isfinite(picture).all())]


def _unit(picture: Tensor) -> Tensor:
    scale = 255.0 if picture.dtype == torch.uint8 else 1.0
    return picture[..., :3].to("cpu", torch.float64).movedim(-1, 0) / scale
