"""GPTQ for NVFP4: each weight's rounding error is made good by the weights after it, as the layer's inputs demand.

What counts is the layer's output, ``‖(W − Q) X‖²``, and that depends on the inputs only by ``H = E[x xᵀ]``. After
Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2023),
columns are rounded one by one, and the error of column i is spread over the columns behind it in proportion
to ``U[i, j] / U[i, i]``, where ``Uᵀ U = H⁻¹``. Two things are particular here:

* H is kept in diagonal blocks of 128 channels, which needs K · 128 numbers instead of K² and keeps most of
  the gain; the blocks do not know each other, so all are computed side by side.
* The scale of 16 weights is chosen when their turn comes, from the neighbours of the nearest one, by the
  squared error weighted with H's diagonal. A scale chosen without H gives half of the gain away.

Afterwards coordinate descent goes over codes and scales again: each weight, given all the others, takes the grid
point that makes the output's error smallest, then each block the best of the scales next to its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from . import four_over_six
from .candidates import Candidate, neighbour
from .e2m1 import BLOCK, E2M1_MAX, encode, round_magnitudes

if TYPE_CHECKING:
    from ...calibration import LayerStatistics

HELP = "each weight's error is made good by the next ones, as a layer's inputs demand; needs detail curvature"
NEEDS = "curvature"
CANDIDATES: tuple[Candidate, ...] = ()
TAKES_BYTES = False
WIDTH = 128
"""Channels in a block of H, as calibrations keep them."""
LEAST_ROWS = 16 * WIDTH
"""Input rows below which H is too uncertain: 16 for each channel of a block; with one it does harm."""
GROUPS = WIDTH // BLOCK
DAMPING = 0.1
"""Added to H's diagonal, as a share of its mean: keeps channels that were hardly seen from being bent at will.
0.1 to 0.3 is safest with few tokens and costs nothing with many."""
SWEEPS = 2
"""Rounds of coordinate descent, 0 for GPTQ alone. On two trained models, means over layers, outputs are 0.6 and 1.5 dB
closer with two than with none (weights alone; 0.1 dB with quantized inputs) for up to twice the time; the second is worth
0.1 and 0.2 dB of it, a third under 0.06."""
STEPS = range(-2, 7)
"""E4M3 codes around the nearest scale that a block tries, as ``block_search_mse`` does."""


@dataclass(frozen=True)
class Hessian:
    """H of one layer in B blocks, damped, K padded to whole blocks: float32 [B, 128, 128] each.

    ``matrix`` is H, ``factor`` the upper triangular U with ``Uᵀ U = H⁻¹``.
    """

    matrix: torch.Tensor
    factor: torch.Tensor

    @classmethod
    def of(cls, blocks: torch.Tensor, device: torch.device) -> Hessian:
        """From symmetric blocks float64 [B, 128, 128]; padded channels hold zeros."""
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean(dim=1)
        # A block that saw nothing but zeros can be rounded in any way: as if its channels were white.
        damped = blocks + torch.diag_embed(torch.where(mean > 0, DAMPING * mean, 1.0).unsqueeze(1).expand_as(diagonal))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        factor = torch.linalg.cholesky(inverse, upper=True)
        return cls(damped.float().to(device), factor.float().to(device))


def tensor_scale(amax: torch.Tensor) -> torch.Tensor:
    """amax / (256 · 6) as float32 scalar: six codes above 256 is 448, the largest."""
    return four_over_six.tensor_scale(amax)


def missing(statistics: LayerStatistics) -> str | None:
    """Why a layer cannot be rounded in this way, in a few words; None when it can."""
    if statistics.curvature is None:
        return "calibrated without detail curvature"
    rows = statistics.curvature.rows
    return f"{rows} input rows seen, {LEAST_ROWS} are needed" if rows < LEAST_ROWS else None


def rounder(
    tensor_scale: torch.Tensor, statistics: LayerStatistics, values: torch.Tensor | None = None
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """A function like ``round_rows`` for one layer; see ``Informed``."""
    curvature = statistics.curvature
    assert curvature is not None
    blocks = torch.zeros(curvature.blocks(), WIDTH, WIDTH, dtype=torch.float64)
    for number in range(curvature.blocks()):
        gram = curvature.gram(number)
        blocks[number, : len(gram), : len(gram)] = gram
    hessian = Hessian.of(blocks, tensor_scale.device)
    return lambda rows: round_rows(rows, tensor_scale, hessian)


def round_rows(rows: torch.Tensor, tensor_scale: torch.Tensor, hessian: Hessian) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize float32 rows [R, K], K a multiple of 16.

    Returns:
        Packed E2M1 codes uint8 [R, K/16, 8], the even column in the high nibble, and block scales
        float8_e4m3fn [R, K/16].
    """
    count, columns = rows.shape
    blocks = len(hessian.matrix)
    padded = torch.nn.functional.pad(rows.float(), (0, blocks * WIDTH - columns))
    weights = padded.reshape(count, blocks, WIDTH).movedim(1, 0).contiguous()
    values, scales = _feed_forward(weights, tensor_scale, hessian)
    for _ in range(SWEEPS):
        _descend(weights, values, scales, tensor_scale, hessian)
    total = _total(scales, tensor_scale)
    codes = encode((values / total.repeat_interleave(BLOCK, dim=-1)).clamp_(-E2M1_MAX, E2M1_MAX))
    codes = torch.where((scales.view(torch.uint8) == 0).repeat_interleave(BLOCK, dim=-1), 0, codes)
    plain_codes = codes.movedim(0, 1).reshape(count, -1)[:, :columns]
    packed = (plain_codes[:, 0::2] << 4) | plain_codes[:, 1::2]
    plain = scales.view(torch.uint8).movedim(0, 1).reshape(count, -1)[:, : columns // BLOCK]
    return packed.reshape(count, columns // BLOCK, BLOCK // 2), plain.contiguous().view(torch.float8_e4m3fn)


def _feed_forward(
    weights: torch.Tensor, tensor_scale: torch.Tensor, hessian: Hessian
) -> tuple[torch.Tensor, torch.Tensor]:
    """GPTQ itself: values on the grid float32 [B, R, 128] and block scales float8_e4m3fn [B, R, 8]."""
    left = weights.clone()
    values = torch.empty_like(weights)
    scales = torch.empty(*weights.shape[:2], GROUPS, dtype=torch.uint8, device=weights.device)
    diagonal = hessian.matrix.diagonal(dim1=1, dim2=2)
    for group in range(GROUPS):
        first, last = group * BLOCK, (group + 1) * BLOCK
        own = left[..., first:last].contiguous()
        scale = _best_scale(own, tensor_scale, diagonal[:, None, first:last])
        scales[..., group] = scale.view(torch.uint8)
        total = _total(scale, tensor_scale)
        errors = torch.empty_like(own)
        factor = hessian.factor[:, first:last]
        for column in range(BLOCK):
            weight = own[..., column]
            rounded = _on_grid(weight, total)
            values[..., first + column] = rounded
            error = (weight - rounded) / factor[:, None, column, first + column]
            errors[..., column] = error
            own[..., column + 1 :] -= error.unsqueeze(-1) * factor[:, None, column, first + column + 1 : last]
        left[..., last:] -= errors @ factor[..., last:]
    return values, scales.view(torch.float8_e4m3fn)


def _descend(
    weights: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor, hessian: Hessian
) -> None:
    """One sweep of coordinate descent over codes and scales, in place.

    With e = w − q and g = e H, moving q by d changes the error e H eᵀ by d H dᵀ − 2 d gᵀ: one weight is best moved
    by g / H_ii, and a block with codes c whose scale moves by t changes by t² c H cᵀ − 2 t c gᵀ.
    """
    gradient = (weights - values) @ hessian.matrix
    diagonal = hessian.matrix.diagonal(dim1=1, dim2=2)
    stored = scales.view(torch.uint8)
    for group in range(GROUPS):
        first, last = group * BLOCK, (group + 1) * BLOCK
        own = hessian.matrix[:, first:last, first:last]
        slope = gradient[..., first:last].contiguous()
        before = values[..., first:last].clone()
        now = before.clone()
        total = _total(scales[..., group], tensor_scale)
        for column in range(BLOCK):
            best = now[..., column] + slope[..., column] / diagonal[:, None, first + column]
            rounded = _on_grid(best, total)
            move = rounded - now[..., column]
            now[..., column] = rounded
            slope -= move.unsqueeze(-1) * own[:, None, column]
        codes = now / total.unsqueeze(-1)
        bend = ((codes @ own) * codes).sum(dim=-1)
        lean = (codes * slope).sum(dim=-1)
        least = torch.zeros_like(bend)
        chosen, chosen_total = stored[..., group].clone(), total
        for step in (-1, 1):
            other = neighbour(scales[..., group], step)
            other_total = _total(other, tensor_scale)
            move = other_total - total
            change = move.square() * bend - 2 * move * lean
            better = change < least
            least = torch.minimum(change, least)
            chosen = torch.where(better, other.view(torch.uint8), chosen)
            chosen_total = torch.where(better, other_total, chosen_total)
        stored[..., group] = chosen
        now = codes * chosen_total.unsqueeze(-1)
        values[..., first:last] = now
        gradient -= (now - before) @ hessian.matrix[:, first:last]


def _best_scale(blocks: torch.Tensor, tensor_scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Of the scales around the nearest one, that with the smallest weighted squared error: float8_e4m3fn [B, R]."""
    nearest = Candidate().scale(blocks.abs().amax(dim=-1), tensor_scale).to(torch.float8_e4m3fn)
    chosen = nearest.view(torch.uint8)
    least = torch.full(chosen.shape, torch.inf, device=blocks.device)
    for step in STEPS:
        scale = neighbour(nearest, step)
        total = _total(scale, tensor_scale).unsqueeze(-1)
        error = (_on_grid(blocks, total) - blocks).square_().mul_(weight).sum(dim=-1)
        better = error < least
        least = torch.minimum(error, least)
        chosen = torch.where(better, scale.view(torch.uint8), chosen)
    return chosen.view(torch.float8_e4m3fn)


def _total(scale: torch.Tensor, tensor_scale: torch.Tensor) -> torch.Tensor:
    """What a code is multiplied by; 1 where the block is all zeros, so that it can be divided by."""
    total = scale.float() * tensor_scale
    return torch.where(total > 0, total, 1.0)


def _on_grid(values: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """The nearest values of the E2M1 grid times ``total``."""
    return round_magnitudes((values / total).abs_().clamp_(max=E2M1_MAX)).copysign_(values).mul_(total)
