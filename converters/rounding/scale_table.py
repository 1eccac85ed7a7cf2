"""The choice of a block's scale by look-up: the errors of all candidates of a weight are one row of a table.

The errors that a block's candidates make are then the sum of sixteen rows, which ``embedding_bag`` computes at a tenth
of the cost of rounding to each candidate. Codes are rounded exactly.

* An FP8 weight has 256 values, so a tensor's table, by the largest byte of the block and the weight's own, is exact.
* Any other weight, divided by its block's scale, lies between 0 and about 6, and what a candidate would do to it depends
  on two numbers only: where the ideal scale lies within its octave, and how large the weight is beside the largest of
  its block. Both are cut into bins, 128 and 256, and one table serves every weight of every model. What the bins leave
  open costs 0.002 dB of a Gaussian weight's SQNR.

Errors are whole numbers in units of 2^-24 of the block's largest square, so small that sums are exact: the same block
gets the same scale on every device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .candidates import Candidate, codes_of, divisor, scales
from .e2m1 import BLOCK, E2M1_MAX, largest_of, packed, round_magnitudes
from .fp8_tables import pairs_and_largest
from .scratch import scratch

OCTAVE_BITS = 7
OCTAVE_BINS = 1 << OCTAVE_BITS
SHARES = 256
"""Bins of a weight's share of its block's largest; the last is the largest itself."""
SUBNORMAL = 8
"""E4M3 codes below have other steps than the table, and keep the nearest scale."""
LARGEST_CODE = 126
SMALLEST_AMAX = 1e-30
UNIT = 2.0**-24
MOST = 2.0**20 - 1
"""Units of one weight's error; sixteen of them are an exact float32."""
BYTES, MAGNITUDES = 256, 128
NUMBER_MASK = 15
_FIRST_CODE = 120 << 3
"""Exponent and three bits of mantissa of a float32, less E4M3's code of the same number."""

Rounder = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def round_rows(
    rows: torch.Tensor,
    tensor_scale: torch.Tensor,
    candidates: tuple[Candidate, ...],
    channel_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows [R, K] of any float dtype, K a multiple of 16, each block with the best of some scales.

    Args:
        candidates: at most 16; of two with the same error the first is taken.
        channel_weight: as for ``best``.

    Returns:
        As ``candidates.round_rows``.
    """
    device = rows.device
    blocks = scratch("blocks", (rows.numel() // BLOCK, BLOCK), torch.float32, device).copy_(rows.reshape(-1, BLOCK))
    magnitudes = torch.abs(blocks, out=scratch("magnitudes", blocks.shape, torch.float32, device))
    amax = largest_of(magnitudes)
    errors, offsets = _bins(candidates, device)
    ideal = (amax / E2M1_MAX / tensor_scale).view(torch.int32)
    octave_bin = (ideal >> (23 - OCTAVE_BITS)).bitwise_and_(OCTAVE_BINS - 1)
    # Just above 255, so that the largest of a block does not miss its bin by a rounding.
    shares = magnitudes.mul_(((SHARES - 1) * (1 + 2**-20) / amax.clamp(min=SMALLEST_AMAX)).unsqueeze(1))
    index = scratch("index", blocks.shape, torch.int32, device).copy_(shares).add_((octave_bin * SHARES).unsqueeze(1))
    chosen = best(index, errors, channel_weight)
    offset = torch.index_select(offsets, 0, octave_bin.mul_(len(candidates)).add_(chosen))
    code = _code(ideal)
    small = code < SUBNORMAL
    code = (code + offset).clamp_(1, LARGEST_CODE)
    if small.is_cuda or bool(small.any()):  # a CPU converts to FP8 slowly, and such blocks are rare; a GPU would wait
        nearest = Candidate().scale(amax, tensor_scale).to(torch.float8_e4m3fn).view(torch.uint8)
        code = torch.where(small, nearest.int(), code)
    scale = code.to(torch.uint8).view(torch.float8_e4m3fn)
    codes = packed(codes_of(blocks, (tensor_scale * scale.float()).unsqueeze(1)))
    return codes.view(len(rows), -1, BLOCK // 2), scale.view(len(rows), -1)


def byte_rounder(
    values: torch.Tensor,
    tensor_scale: torch.Tensor,
    candidates: tuple[Candidate, ...],
    channel_weight: torch.Tensor | None = None,
) -> Rounder:
    """A function like ``round_rows`` for FP8 bytes uint8 [R, K] of one tensor.

    Args:
        values: float32 [256], what each byte stands for; those that are not finite may hold anything.
        candidates, channel_weight: as for ``round_rows``.
    """
    values = values.nan_to_num(0.0, 0.0, 0.0)
    device, magnitudes = values.device, values[:MAGNITUDES].abs()
    # Weights lie along the first dimension, the largest magnitudes of their block along the second.
    tried = [scales(magnitudes, tensor_scale, candidate) for candidate in candidates]
    every = values.unsqueeze(1).expand(-1, MAGNITUDES).contiguous()
    codes = torch.stack([codes_of(every, total).T for _, total in tried]).reshape(-1)
    scale_bytes = torch.stack([scale for scale, _ in tried]).reshape(-1).to(torch.float8_e4m3fn).view(torch.uint8)
    own = every[:MAGNITUDES].abs()
    errors = _table([_error(own, divisor(total)) for _, total in tried], magnitudes)

    def looked_up(
        blocks: torch.Tensor, magnitudes: torch.Tensor, largest: torch.Tensor, dim: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scale bytes of bytes whose blocks lie along ``dim``, given without signs and by their largest too."""
        index = scratch("index", blocks.shape, torch.int32, device).copy_(magnitudes)
        index += (largest * MAGNITUDES).unsqueeze(dim)
        row = best(index, errors, channel_weight, dim).mul_(MAGNITUDES).add_(largest)
        index.copy_(blocks).add_((row * BYTES).unsqueeze(dim))
        found = scratch("found", blocks.shape, torch.uint8, device)
        torch.index_select(codes, 0, index.view(-1), out=found.view(-1))
        return found, torch.index_select(scale_bytes, 0, row.view(-1)).view(row.shape).view(torch.float8_e4m3fn)

    def unsigned(blocks: torch.Tensor) -> torch.Tensor:
        magnitudes = scratch("magnitude bytes", blocks.shape, torch.uint8, device)
        return torch.bitwise_and(blocks, MAGNITUDES - 1, out=magnitudes)

    def round_to_one_of_two(stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The sixteen bytes of a block lie one below the other, along which two candidates are compared fastest.
        in_rows = stored.reshape(len(stored), -1, BLOCK).permute(2, 0, 1)
        blocks = scratch("bytes", in_rows.shape, torch.uint8, device).copy_(in_rows)
        magnitudes = unsigned(blocks)
        found, scale = looked_up(blocks, magnitudes, magnitudes.amax(dim=0).int(), 0)
        return (found[0::2] << 4).bitwise_or_(found[1::2]).permute(1, 2, 0), scale

    def round_bytes(stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = stored.reshape(-1, BLOCK)
        found, scale = looked_up(blocks, unsigned(blocks), pairs_and_largest(stored)[1].view(-1), 1)
        return packed(found).view(len(stored), -1, BLOCK // 2), scale.view(len(stored), -1)

    return round_to_one_of_two if len(candidates) == 2 and channel_weight is None else round_bytes


def best(index: torch.Tensor, errors: torch.Tensor, channel_weight: torch.Tensor | None, dim: int = 1) -> torch.Tensor:
    """Number int32 [n] of the candidate with the smallest error in each block, the first of equal ones.

    Args:
        index: int32 [n, 16], each weight's row of the table, blocks in the order of rows and channels.
        errors: float32 [rows, C], C at most 16.
        channel_weight: what the squared error of each channel counts, float32 [K], not negative; None for 1.
        dim: along which the weights of a block lie; only two candidates without channel weights take another than 1.
    """
    if errors.shape[1] == 2 and channel_weight is None:
        # One look-up of the difference is cheaper than the sum of both.
        gain = scratch("gain", index.shape, torch.float32, index.device)
        torch.index_select(errors[:, 1] - errors[:, 0], 0, index.view(-1), out=gain.view(-1))
        return (gain.sum(dim=dim) < 0).int()
    weights = None
    if channel_weight is not None:
        weights = scratch("bag weights", index.shape, torch.float32, index.device)
        weights.view(-1, len(channel_weight)).copy_(channel_weight)
    sums = torch.nn.functional.embedding_bag(index, errors, mode="sum", per_sample_weights=weights)
    # Floats that are not negative order like their bits, so the last four give way to the candidate's number: what is
    # no more than 2^-19 of its size apart may count as the same.
    if sums.is_cpu:
        numbers = _numbers(len(sums), sums.shape[1])
    else:  # made anew: streams do not wait for what another one has queued, and broadcasting costs nothing there
        numbers = torch.arange(sums.shape[1], dtype=torch.int32, device=sums.device)
    least = sums.view(torch.int32).bitwise_and_(~NUMBER_MASK).bitwise_or_(numbers).amin(dim=1)
    return least.bitwise_and_(NUMBER_MASK)


@functools.lru_cache(maxsize=8)
def _numbers(rows: int, columns: int) -> torch.Tensor:
    """int32 [rows, columns] of column numbers on the CPU, kept because making them takes as long as the search."""
    with torch.inference_mode(False):
        return torch.arange(columns, dtype=torch.int32).repeat(rows, 1)


@functools.cache
def _bins(candidates: tuple[Candidate, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors float32 [128 · 256, C] of each bin's middle, and int32 [128 · C], each candidate's code less ``_code``'s."""
    with torch.inference_mode(False):
        ideal = 2 * (1 + (torch.arange(OCTAVE_BINS) + 0.5) / OCTAVE_BINS)
        share = (torch.arange(SHARES) + 0.5) / (SHARES - 1)
        share[-1] = 1.0
        magnitudes = share.unsqueeze(1) * (E2M1_MAX * ideal)
        tried = [candidate.scale(E2M1_MAX * ideal, torch.ones(())) for candidate in candidates]
        errors = _table([_error(magnitudes, scale) for scale in tried], E2M1_MAX * ideal)
        codes = torch.stack([_code(scale.view(torch.int32)) for scale in tried], dim=1)
        offsets = codes - _code(ideal.view(torch.int32)).unsqueeze(1)
        return errors.to(device), offsets.reshape(-1).to(device)


def _code(bits: torch.Tensor) -> torch.Tensor:
    """E4M3's code, 8 or more, of the number nearest to a float32 given by its bits; ties upwards, as bins are cut."""
    return ((bits + (1 << 19)) >> 20).sub_(_FIRST_CODE)


def _error(magnitudes: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Squared error float64 of magnitudes [W, L] rounded with total scales [L]."""
    rounded = round_magnitudes((magnitudes / total).clamp_(max=E2M1_MAX)).double().mul_(total)
    return rounded.sub_(magnitudes).square_()


def _table(errors: list[torch.Tensor], largest: torch.Tensor) -> torch.Tensor:
    """Rows [L · W, C] of whole units from squared errors [W, L] in blocks with largest magnitudes [L]."""
    # In float64, because squares of small weights leave float32; a block of zeros has no error.
    unit = largest.double().square().mul_(UNIT).clamp_(min=torch.finfo(torch.float64).tiny)
    units = torch.stack([(error / unit).round_().clamp_(max=MOST).float().T for error in errors], dim=-1)
    return units.reshape(-1, len(errors)).contiguous()
