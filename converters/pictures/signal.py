"""Peak signal-to-noise ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from .pairs import pairs


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """PSNR in dB of each pair, float64 ``[B]``: ``-10 log10(mean((a - b)**2))`` over pixels and channels, peak 1.

    Infinite for equal pictures. The two may be exchanged. It counts every change of a pixel alike, also a shift or
    another but equally good detail, which is what a quantized model often makes: read it beside SSIM and HaarPSI.
    """
    return torch.stack([-10.0 * (one - other).square().mean().log10() for one, other in pairs(first, second)])
