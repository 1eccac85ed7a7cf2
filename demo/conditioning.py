"""Class conditioning for the demo model, as a formula.

Flux takes text features from two encoders: token features (``context``, into ``txt_in``) and one pooled
vector (``y``, into ``vector_in``). The demo model knows ten digits and no words, so both are computed
from the class number alone. No encoder, no file and no random number is needed: a test of ComfyUI can
build ``[[context, {"pooled_output": pooled}]]`` from here and hand it to any sampler node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CLASSES = 10
TOKENS = 4
CONTEXT_WIDTH = 256
POOLED_WIDTH = 256


def class_conditioning(labels: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Conditioning of the given digit classes.

    Args:
        labels: B class numbers, each in 0..9.

    Returns:
        ``context`` float32 [B, TOKENS, CONTEXT_WIDTH] and ``pooled`` float32 [B, POOLED_WIDTH].

    Raises:
        ValueError: a label outside 0..9.

    For class k, channel j of the pooled vector is ``sqrt(2) * cos(pi * (k + 1/2) * (1 + j mod 9) / 10)``:
    the nine non-constant rows of the ten-point DCT-II, repeated. Rows of a DCT are orthogonal, so the ten
    vectors have nearly the same length (RMS about 1, as a normalised text feature has) and every pair lies
    at the same angle; no two classes are confused by construction. Token t adds ``t * pi / 4`` and a golden-
    angle phase per channel, which makes the tokens differ from each other and fills all channels.
    """
    index = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= CLASSES):
        raise ValueError(f"digit classes are 0 to {CLASSES - 1}, got {index.tolist()}")
    centre = (index.to(torch.float64) + 0.5) * (math.pi / CLASSES)

    channel = torch.arange(POOLED_WIDTH, dtype=torch.float64)
    pooled = math.sqrt(2.0) * torch.cos(centre[:, None] * (1.0 + channel % (CLASSES - 1)))

    channel = torch.arange(CONTEXT_WIDTH, dtype=torch.float64)
    golden = math.pi * (3.0 - math.sqrt(5.0))
    phase = torch.arange(TOKENS, dtype=torch.float64)[:, None] * (math.pi / 4.0) + channel * golden
    angle = centre[:, None, None] * (1.0 + channel % (CLASSES - 1)) + phase
    context = math.sqrt(2.0) * torch.cos(angle)
    return context.float(), pooled.float()
