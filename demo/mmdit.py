"""A second small diffusion transformer, of another structure: joint blocks in Stable Diffusion 3.5's key layout.

ComfyUI recognises it as SD3 and reads its size from ``x_embedder.proj``: heads are 64 channels wide, and there
are as many heads as blocks. Compared with the demo's Flux layout there are no single blocks, position is added
once and not rotated into q and k, and the last block's text is read but not written.

It exists so that figures about quality do not rest on one structure; only benchmarks and tests use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import LinearFactory
from .model import LATENT_CHANNELS, MLP_RATIO, PATCH, TIME_WIDTH, FinalLayer, normalise, timestep_features

HEAD = 64
THETA = 10000.0
SPAN = 15.0
"""Positions run from 0 to this along the picture's shorter side, whatever its size (ComfyUI's choice)."""


@dataclass(frozen=True)
class MMDiTConfig:
    """Sizes that SD3's layout leaves open."""

    depth: int = 3
    context_width: int = 256
    pooled_width: int = 256

    @property
    def hidden(self) -> int:
        return HEAD * self.depth

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> MMDiTConfig:
        """Sizes of the model whose tensors have these names and shapes.

        Raises:
            ValueError: a key of SD3's layout is missing.
        """
        for key in ("x_embedder.proj.weight", "context_embedder.weight", "y_embedder.mlp.0.weight"):
            if key not in shapes:
                raise ValueError(f"not an SD3 layout: {key} is missing among {len(shapes)} tensors")
        return cls(
            depth=int(shapes["x_embedder.proj.weight"][0]) // HEAD,
            context_width=int(shapes["context_embedder.weight"][1]),
            pooled_width=int(shapes["y_embedder.mlp.0.weight"][1]),
        )


def position_table(rows: int, columns: int, width: int) -> Tensor:
    """Sinusoids of every token's place, float32 [rows * columns, width]: half for the column, half for the row.

    Pair i of a half of width w turns with ``place / THETA**(2i/w)``, sines before cosines.
    """
    shorter = min(rows, columns)
    places = []
    for count in (rows, columns):
        reach = SPAN / 2 * count / shorter
        places.append(torch.linspace(SPAN / 2 - reach, SPAN / 2 + reach, count, dtype=torch.float64))
    row, column = torch.meshgrid(*places, indexing="ij")
    turn = THETA ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [place.reshape(-1, 1) * turn for place in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=-1).float()


class Embedder(nn.Module):
    """Two Linear layers with SiLU between: [B, width_in] -> [B, hidden]."""

    def __init__(self, width_in: int, hidden: int, linear: LinearFactory) -> None:
        super().__init__()
        self.mlp = nn.Sequential(linear(width_in, hidden), nn.SiLU(), linear(hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class PatchEmbedder(nn.Module):
    """Latents [B, 16, H, W] -> tokens [B, H/2 * W/2, hidden]. A convolution in SD3's files."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(LATENT_CHANNELS, hidden, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class HeadNorm(nn.Module):
    """RMS norm over one head's 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HEAD))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (HEAD,), self.weight.to(x.dtype), eps=1e-6)


class Attention(nn.Module):
    """A stream's part in the joint attention; without ``proj`` where its result is not needed."""

    def __init__(self, hidden: int, linear: LinearFactory, read_only: bool) -> None:
        super().__init__()
        self.qkv = linear(hidden, 3 * hidden)
        self.ln_q = HeadNorm()
        self.ln_k = HeadNorm()
        if not read_only:
            self.proj = linear(hidden, hidden)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, hidden] -> normalised q, normalised k, v; each [B, heads, T, 64]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return self.ln_q(q), self.ln_k(k), v


class Mlp(nn.Module):
    def __init__(self, hidden: int, linear: LinearFactory) -> None:
        super().__init__()
        self.fc1 = linear(hidden, MLP_RATIO * hidden)
        self.fc2 = linear(MLP_RATIO * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Stream(nn.Module):
    """One stream of a joint block. ``read_only``: attended to, but not changed (the text of the last block)."""

    def __init__(self, hidden: int, linear: LinearFactory, read_only: bool) -> None:
        super().__init__()
        self.read_only = read_only
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(hidden, (2 if read_only else 6) * hidden))
        self.attn = Attention(hidden, linear, read_only)
        if not read_only:
            self.mlp = Mlp(hidden, linear)

    def enter(self, x: Tensor, vector: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        """q, k, v of the joint attention, and the modulation that :meth:`leave` needs."""
        shift, scale, *rest = self.adaLN_modulation(vector)[:, None, :].chunk(2 if self.read_only else 6, dim=-1)
        return self.attn.split(normalise(x) * (1 + scale) + shift), tuple(rest)

    def leave(self, x: Tensor, seen: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        gate, shift, scale, gate_mlp = modulation
        x = x + gate * self.attn.proj(seen)
        return x + gate_mlp * self.mlp(normalise(x) * (1 + scale) + shift)


class JointBlock(nn.Module):
    """Picture and text have weights of their own and meet in one attention."""

    def __init__(self, hidden: int, linear: LinearFactory, last: bool) -> None:
        super().__init__()
        self.context_block = Stream(hidden, linear, read_only=last)
        self.x_block = Stream(hidden, linear, read_only=False)

    def forward(self, x: Tensor, context: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        text, text_modulation = self.context_block.enter(context, vector)
        picture, modulation = self.x_block.enter(x, vector)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(text, picture, strict=True))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        seen_by_text, seen = mixed.split((context.shape[1], x.shape[1]), dim=1)
        if not self.context_block.read_only:
            context = self.context_block.leave(context, seen_by_text, text_modulation)
        return self.x_block.leave(x, seen, modulation), context


class MMDiT(nn.Module):
    """The whole model. ``linear(in, out)`` makes every Linear, so a loader can bring its quantized class."""

    shift = 3.0
    """ComfyUI samples SD3 with this shift of the noise levels, see ``sampling.schedule``."""

    def __init__(self, config: MMDiTConfig, linear: LinearFactory = nn.Linear) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedder(config.hidden)
        self.t_embedder = Embedder(TIME_WIDTH, config.hidden, linear)
        self.y_embedder = Embedder(config.pooled_width, config.hidden, linear)
        self.context_embedder = linear(config.context_width, config.hidden)
        last = config.depth - 1
        self.joint_blocks = nn.ModuleList(
            JointBlock(config.hidden, linear, last=number == last) for number in range(config.depth)
        )
        self.final_layer = FinalLayer(config.hidden, linear)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """Velocity ``noise - picture`` at ``x``; shapes as in ``FluxTransformer.forward``."""
        rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        tokens = self.x_embedder(x)
        tokens = tokens + position_table(rows, columns, self.config.hidden).to(tokens)
        text = self.context_embedder(context)
        vector = self.t_embedder(timestep_features(sigma).to(x.dtype)) + self.y_embedder(pooled)
        for block in self.joint_blocks:
            tokens, text = block(tokens, text, vector)
        out = self.final_layer(tokens, vector).unflatten(1, (rows, columns))
        # SD3 orders a token's numbers by row, column, channel; Flux by channel, row, column.
        return out.unflatten(-1, (PATCH, PATCH, LATENT_CHANNELS)).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
