"""A small diffusion transformer in Flux.1's key layout.

Keys, shapes and hyper-parameter rules are those of Flux.1, so ComfyUI recognises the checkpoint as Flux
and samples it: patch size 2, 16 latent channels (``img_in`` reads 64 numbers a token), rotary axes
16 + 56 + 56 = 128 channels a head, MLP four times as wide as the model. Everything else is read off the
shapes: :meth:`FluxConfig.from_shapes` does what ComfyUI's detection does.

The forward pass follows ComfyUI's ``Flux`` in order of operations, so that both give the same numbers
from the same weights; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AXES, Attention, LinearFactory, QKNorm, attend, rotary_table

LATENT_CHANNELS = 16
PATCH = 2
MLP_RATIO = 4
TIME_WIDTH = 256


@dataclass(frozen=True)
class FluxConfig:
    """Sizes that Flux.1's layout leaves open. ``hidden`` must be a multiple of the head width 128."""

    hidden: int = 256
    double_blocks: int = 2
    single_blocks: int = 2
    context_width: int = 256
    pooled_width: int = 256

    @property
    def heads(self) -> int:
        return self.hidden // sum(AXES)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> FluxConfig:
        """Sizes of the model whose tensors have these names and shapes.

        Raises:
            ValueError: a key of Flux.1's layout is missing, or the width is no multiple of 128.
        """
        for key in ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight"):
            if key not in shapes:
                raise ValueError(f"not a Flux.1 layout: {key} is missing among {len(shapes)} tensors")
        hidden = int(shapes["img_in.weight"][0])
        if hidden % sum(AXES):
            raise ValueError(f"img_in.weight is {hidden} wide, which is no multiple of the head width {sum(AXES)}")

        def depth(stack: str) -> int:
            return len({name.split(".")[1] for name in shapes if name.startswith(stack + ".")})

        return cls(
            hidden=hidden,
            double_blocks=depth("double_blocks"),
            single_blocks=depth("single_blocks"),
            context_width=int(shapes["txt_in.weight"][1]),
            pooled_width=int(shapes["vector_in.in_layer.weight"][1]),
        )


def timestep_features(sigma: Tensor) -> Tensor:
    """Sinusoids of the noise level: [B] in 0..1 -> [B, 256], cosines first, of ``1000 * sigma``."""
    half = TIME_WIDTH // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=sigma.device) * (-math.log(10000.0) / half))
    angle = (1000.0 * sigma)[:, None].float() * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def normalise(x: Tensor) -> Tensor:
    """Layer norm without learned parameters, eps 1e-6, over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Embedder(nn.Module):
    """Two Linear layers with SiLU between: [B, width_in] -> [B, hidden]."""

    def __init__(self, width_in: int, hidden: int, linear: LinearFactory) -> None:
        super().__init__()
        self.in_layer = linear(width_in, hidden)
        self.out_layer = linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class Modulation(nn.Module):
    """adaLN: [B, hidden] -> ``parts`` tensors [B, 1, hidden] (shift, scale, gate; twice in a double block)."""

    def __init__(self, hidden: int, parts: int, linear: LinearFactory) -> None:
        super().__init__()
        self.parts = parts
        self.lin = linear(hidden, parts * hidden)

    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        return self.lin(F.silu(vector))[:, None, :].chunk(self.parts, dim=-1)


class DoubleBlock(nn.Module):
    """Picture and text have weights of their own and meet in one attention."""

    def __init__(self, config: FluxConfig, linear: LinearFactory) -> None:
        super().__init__()
        hidden = config.hidden
        for stream in ("img", "txt"):
            self.add_module(f"{stream}_mod", Modulation(hidden, 6, linear))
            self.add_module(f"{stream}_attn", Attention(hidden, config.heads, linear))
            self.add_module(
                f"{stream}_mlp",
                nn.Sequential(
                    linear(hidden, MLP_RATIO * hidden), nn.GELU(approximate="tanh"), linear(MLP_RATIO * hidden, hidden)
                ),
            )

    def forward(self, img: Tensor, txt: Tensor, vector: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        streams = {"txt": txt, "img": img}
        modulation = {name: getattr(self, f"{name}_mod")(vector) for name in streams}
        parts = []
        for name, x in streams.items():
            shift, scale = modulation[name][:2]
            parts.append(getattr(self, f"{name}_attn").split(normalise(x) * (1 + scale) + shift))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*parts, strict=True))
        mixed = attend(q, k, v, rotary).split((txt.shape[1], img.shape[1]), dim=1)
        for (name, x), seen in zip(streams.items(), mixed, strict=True):
            _, _, gate, shift, scale, gate_mlp = modulation[name]
            x = x + gate * getattr(self, f"{name}_attn").proj(seen)
            inner = normalise(x) * (1 + scale) + shift
            streams[name] = x + gate_mlp * getattr(self, f"{name}_mlp")(inner)
        return streams["img"], streams["txt"]


class SingleBlock(nn.Module):
    """Text and picture as one sequence; attention and MLP side by side behind shared matrices."""

    def __init__(self, config: FluxConfig, linear: LinearFactory) -> None:
        super().__init__()
        hidden = config.hidden
        self.heads = config.heads
        self.widths = (3 * hidden, MLP_RATIO * hidden)
        self.linear1 = linear(hidden, sum(self.widths))
        self.linear2 = linear(hidden + MLP_RATIO * hidden, hidden)
        self.norm = QKNorm(hidden // config.heads)
        self.modulation = Modulation(hidden, 3, linear)

    def forward(self, x: Tensor, vector: Tensor, rotary: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(vector)
        qkv, mlp = self.linear1(normalise(x) * (1 + scale) + shift).split(self.widths, dim=-1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = attend(self.norm.query_norm(q), self.norm.key_norm(k), v, rotary)
        return x + gate * self.linear2(torch.cat((seen, F.gelu(mlp, approximate="tanh")), dim=-1))


class FinalLayer(nn.Module):
    def __init__(self, hidden: int, linear: LinearFactory) -> None:
        super().__init__()
        self.linear = linear(hidden, LATENT_CHANNELS * PATCH * PATCH)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vector)[:, None, :].chunk(2, dim=-1)
        return self.linear(normalise(x) * (1 + scale) + shift)


class FluxTransformer(nn.Module):
    """The whole model. ``linear(in, out)`` makes every Linear, so a loader can bring its quantized class."""

    shift = 1.0
    """ComfyUI samples Flux schnell with this shift of the noise levels, see ``sampling.schedule``."""

    def __init__(self, config: FluxConfig, linear: LinearFactory = nn.Linear) -> None:
        super().__init__()
        self.config = config
        self.img_in = linear(LATENT_CHANNELS * PATCH * PATCH, config.hidden)
        self.time_in = Embedder(TIME_WIDTH, config.hidden, linear)
        self.vector_in = Embedder(config.pooled_width, config.hidden, linear)
        self.txt_in = linear(config.context_width, config.hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(config, linear) for _ in range(config.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(config, linear) for _ in range(config.single_blocks))
        self.final_layer = FinalLayer(config.hidden, linear)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """Velocity ``noise - picture`` at ``x``.

        Args:
            x: noisy latents [B, 16, H, W] with H and W even; ``sigma``: noise level [B], 0..1;
            context: [B, T, context_width]; pooled: [B, pooled_width].
        """
        rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        img = self.img_in(F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2))
        txt = self.txt_in(context)
        vector = self.time_in(timestep_features(sigma).to(x.dtype)) + self.vector_in(pooled)
        rotary = rotary_table(txt.shape[1], rows, columns).to(x.device)
        for block in self.double_blocks:
            img, txt = block(img, txt, vector, rotary)
        both = torch.cat((txt, img), dim=1)
        for block in self.single_blocks:
            both = block(both, vector, rotary)
        out = self.final_layer(both[:, txt.shape[1] :], vector)
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(-1, (rows, columns)), PATCH)
