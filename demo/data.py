"""Handwritten digits as 16-channel latents, and back to pictures, by formula.

scikit-learn ships 1797 digits of 8 x 8 pixels. They are enlarged to 32 x 32 and each 4 x 4 square of pixels
becomes the 16 channels of one latent position. Flux's transformer then sees 16 tokens of 2 x 2 latent
positions, and the fold back to a picture is exact: no VAE takes part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PICTURE = 32
FOLD = 4
LATENT = PICTURE // FOLD

# ComfyUI stores a latent as ``model / scale + shift`` (comfy.latent_formats, the VAE's statistics).
COMFY_SCALE, COMFY_SHIFT = 0.3611, 0.1159
SD3_SCALE, SD3_SHIFT = 1.5305, 0.0609


def fold(pictures: Tensor) -> Tensor:
    """Pictures [B, 32, 32], ink 0..1 -> latents [B, 16, 8, 8] in -1..1.

    Channel ``4 * r + c`` holds row r, column c of each 4 x 4 square (pixel unshuffle).
    """
    return F.pixel_unshuffle(pictures[:, None] * 2.0 - 1.0, FOLD)


def unfold(latents: Tensor) -> Tensor:
    """Latents [B, 16, H, W] -> pictures [B, 4H, 4W], clipped to ink 0..1. Inverse of :func:`fold`."""
    return ((F.pixel_shuffle(latents.float(), FOLD)[:, 0] + 1.0) / 2.0).clamp(0.0, 1.0)


def from_comfy(samples: Tensor, scale: float = COMFY_SCALE, shift: float = COMFY_SHIFT) -> Tensor:
    """``samples`` of a ComfyUI LATENT, by default of the Flux layout -> latents for :func:`unfold`."""
    return (samples - shift) * scale


def load_digits() -> tuple[Tensor, Tensor]:
    """All digits: pictures float32 [1797, 32, 32] with ink 0..1, and labels int64 [1797].

    Bilinear enlargement: it keeps values within 0..1 and grey edges smooth, so that the small model learns
    strokes and not stair steps. Needs scikit-learn, which nothing else in the demo does.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    small = torch.tensor(digits.images, dtype=torch.float32) / 16.0
    large = F.interpolate(small[:, None], size=(PICTURE, PICTURE), mode="bilinear", align_corners=False)[:, 0]
    return large, torch.tensor(digits.target, dtype=torch.int64)
