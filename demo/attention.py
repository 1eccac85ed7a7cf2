"""Attention of the demo model: rotary positions, normalised queries and keys, one Linear for q, k and v."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = (16, 56, 56)
"""Channels of a head that turn with each position axis; Flux.1's are (unused, row, column), together 128."""
THETA = 10000.0

LinearFactory = Callable[[int, int], nn.Module]


def rotary_table(text_tokens: int, rows: int, columns: int) -> Tensor:
    """Rotation of every token, text first: complex64 [T + rows * columns, 64].

    A token's position is (0, row, column); text stands at the origin. Axis a of width d turns channel pair
    i by ``position_a / THETA**(2i/d)`` (rotary embedding, Su et al. 2021, one stretch of channels per axis).
    """
    position = torch.zeros(text_tokens + rows * columns, len(AXES), dtype=torch.float64)
    position[text_tokens:, 1] = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)
    position[text_tokens:, 2] = torch.arange(columns, dtype=torch.float64).repeat(rows)
    angle = torch.cat(
        [
            position[:, axis, None] * THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
            for axis, width in enumerate(AXES)
        ],
        dim=-1,
    )
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def attend(q: Tensor, k: Tensor, v: Tensor, rotary: Tensor) -> Tensor:
    """Rotate q and k by position, then softmax attention: three [B, heads, T, 128] -> [B, T, heads * 128]."""

    def rotate(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)

    mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v)
    return mixed.transpose(1, 2).flatten(2)


class Scale(nn.Module):
    """RMS norm over one head's 128 channels; the learned factor is named ``scale`` as in Flux.1's files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.scale.to(x.dtype))


class QKNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm = Scale(width)
        self.key_norm = Scale(width)


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, linear: LinearFactory) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(hidden, 3 * hidden)
        self.norm = QKNorm(hidden // heads)
        self.proj = linear(hidden, hidden)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, hidden] -> normalised q, normalised k, v; each [B, heads, T, 128]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.norm.query_norm(q), self.norm.key_norm(k), v
