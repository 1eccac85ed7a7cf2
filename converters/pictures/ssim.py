"""Structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import PictureError
from .pairs import described, pairs

TAPS, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of each pair, float64 ``[B]``, at most 1 (equal), usually above 0.

    ::

        (2 ma mb + c1) (2 cov + c2) / ((ma**2 + mb**2 + c1) (va + vb + c2)),   c1 = 0.01**2, c2 = 0.03**2

    with means, variances and covariance under a Gaussian of 11 x 11 pixels, sigma 1.5, averaged over all places where
    the window lies inside the picture, and over the channels. Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality
    assessment: from error visibility to structural similarity", equations 13 to 16; the same numbers as scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
    channel_axis=-1)``.

    Raises:
        PictureError: a picture is smaller than the window.
    """
    both = pairs(first, second)
    if min(first.shape[1:3]) < TAPS:
        raise PictureError(
            f"SSIM needs at least {TAPS} x {TAPS} pixels, the size of its window, not {described(first)}."
        )
    return torch.stack([_ssim(one, other) for one, other in both])


def _ssim(one: Tensor, other: Tensor) -> Tensor:
    """One pair [C, H, W]: a value for each channel, averaged."""
    mean_one, mean_other, square_one, square_other, product = (
        _blurred(plane) for plane in (one, other, one * one, other * other, one * other)
    )
    variances = square_one - mean_one.square() + square_other - mean_other.square()
    covariance = product - mean_one * mean_other
    likeness = (2 * mean_one * mean_other + K1**2) * (2 * covariance + K2**2)
    return (likeness / ((mean_one.square() + mean_other.square() + K1**2) * (variances + K2**2))).mean()


def _blurred(planes: Tensor) -> Tensor:
    """[C, H, W] -> [C, H - 10, W - 10] under the Gaussian, columns then rows.

    A sum of shifted pictures: in float64 ten times as fast on a CPU as its convolution.
    """
    distance = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    window = torch.exp(-0.5 * (distance / SIGMA).square())
    weights = (window / window.sum()).tolist()
    for dimension in (1, 2):
        inside = planes.shape[dimension] - TAPS + 1
        blurred = planes.narrow(dimension, 0, inside) * weights[0]
        for shift in range(1, TAPS):
            blurred.add_(planes.narrow(dimension, shift, inside), alpha=weights[shift])
        planes = blurred
    return planes
