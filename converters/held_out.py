"""Output errors of one NVFP4 layer on the input rows that a calibration kept, as ComfyUI would compute it.

``y = x Wᵀ`` in full precision against ``y' = x' W'ᵀ`` with both sides as the kernels see them. Weight errors do not
rank methods; this does, and it is what a layer's rounding is accepted or refused by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from ..calibration import LayerStatistics, activation_range, input_scale
from .formats import Encoding, Rows, Weight, nvfp4
from .rounding import METHODS
from .rounding.pre_quant import EXPONENTS, missing, pre_quant_scale, transformed
from .stored import Encoded

WEIGHTS_AT_ONCE = 1 << 20
CUDA_WEIGHTS_AT_ONCE = 1 << 25
SIGNIFICANT = 2.0
"""Standard errors by which something must be better on the held-out rows to be accepted."""


@dataclass(frozen=True)
class HeldOut:
    """Input rows of one layer, float32 [n, K]: as they come, and as the kernels round them."""

    values: torch.Tensor
    quantized: torch.Tensor

    @classmethod
    def of(
        cls, statistics: LayerStatistics | None, scale: float | None, full_precision: bool = False
    ) -> HeldOut | None:
        """The rows that were kept of a layer's input, None where there are none.

        Args:
            statistics: of the input that is quantized, see ``pre_quant.transformed``.
            scale: the layer's input_scale, None for a dynamic one, which is taken from these rows.
            full_precision: whether ComfyUI leaves the layer's input as it is.
        """
        reservoir = statistics.reservoir if statistics is not None else None
        if reservoir is None or not len(reservoir.hashes):
            return None
        values = reservoir.values()
        plain = values.float()
        return cls(plain, plain if full_precision else nvfp4.quantized_input(values, scale))


@dataclass(frozen=True)
class Outputs:
    """Sums over a layer's output channels for each held-out row, float64 [n]: y², y y' and y'²."""

    signal: torch.Tensor
    product: torch.Tensor
    power: torch.Tensor

    def noise(self, gain: float = 1.0) -> torch.Tensor:
        """Σ (y − gain · y')² of each row, float64 [n]."""
        return self.signal - 2 * gain * self.product + gain**2 * self.power

    def sqnr_db(self, gain: float = 1.0) -> float:
        """10·log10(Σ y² / Σ (y − gain · y')²) over all rows."""
        return float(10 * torch.log10(self.signal.sum() / self.noise(gain).sum()))

    def better_than(self, other: Outputs) -> bool:
        """Whether the error is smaller, by more than the rows' own spread explains."""
        return significantly_negative(self.noise() - other.noise())


def significantly_negative(differences: torch.Tensor) -> bool:
    """Whether the mean of float64 [n] lies below zero by more than ``SIGNIFICANT`` standard errors."""
    if len(differences) < 2:
        return False
    return float(differences.mean() + SIGNIFICANT * differences.std() / len(differences) ** 0.5) < 0


def outputs(
    weight: Weight,
    tensors: Mapping[str, torch.Tensor],
    rows: HeldOut,
    device: torch.device | None = None,
    check: Callable[[], None] = lambda: None,
) -> Outputs:
    """Outputs of a layer and of what it was encoded to.

    Args:
        weight: the original, divided by its pre_quant_scale where it has one.
        tensors: what it was encoded to, by suffix.
        rows: of the input that is quantized.
        device: where to compute; None for the CPU.
        check: called between pieces; may raise to cancel.
    """
    device = device or torch.device("cpu")
    decoded = nvfp4.decoder(Encoded(weight.name, weight.shape, {}, tensors))
    values, quantized = rows.values.to(device), rows.quantized.to(device)
    sums = torch.zeros(3, len(values), dtype=torch.float64, device=device)
    for original, stored in _pieces(weight.rows, decoded, weight.shape, device):
        check()
        wanted, got = values @ original.T, quantized @ stored.T
        sums += torch.stack([_row_sums(wanted, wanted), _row_sums(wanted, got), _row_sums(got, got)])
    return Outputs(*sums.cpu())


def _pieces(
    originals: Rows, results: Rows, shape: tuple[int, int], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rows, columns = shape
    step = max(1, (WEIGHTS_AT_ONCE if device.type == "cpu" else CUDA_WEIGHTS_AT_ONCE) // max(1, columns))
    for first in range(0, rows, step):
        last = min(rows, first + step)
        yield originals(first, last).to(device).float(), results(first, last).to(device)


def _row_sums(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left * right).sum(dim=1, dtype=torch.float64)


def gain_of(found: Outputs) -> float:
    """The constant factor that gives outputs their length back, ⟨y, y⟩ / ⟨y, y'⟩, or 1 where they have it.

    Rounding that clips makes outputs shorter. What is missing is the same share in every layer and adds up, while
    rounding noise does not: so the factor may raise a layer's own squared error a little and still bring pictures
    closer. On two trained models they are 0.1 to 1.0 dB of PSNR closer with quantized activations, after every rounding
    (``benchmarks/picture_quality.py --measured``), and never less than with the factor of least squares,
    ⟨y, y'⟩ / ⟨y', y'⟩, or one that is used only where the squared error falls. It must differ from 1 by more than the
    rows' own spread explains.
    """
    kept = (found.product / found.signal)[found.signal > 0]
    shorter, longer = significantly_negative(kept - 1), significantly_negative(1 - kept)
    return float(found.signal.sum() / found.product.sum()) if shorter or longer else 1.0


@dataclass(frozen=True)
class Scaling:
    """``exponent``: of a pre_quant_scale. ``closer_db``: how much closer outputs on the held-out rows come with it."""

    exponent: float
    closer_db: float


def search_pre_quant(
    weight: Weight,
    statistics: LayerStatistics,
    rounding: str = "nearest",
    *,
    input_policy: str = "p99.9",
    exponents: tuple[float, ...] = EXPONENTS,
    device: torch.device | None = None,
    check: Callable[[], None] = lambda: None,
) -> Scaling | None:
    """The exponent with which a layer's held-out output error falls the most, None when it falls with none.

    Every exponent is tried as it would be written: pre_quant_scale rounded to bfloat16, the weight rounded by
    ``rounding`` with statistics transformed alike, or by ``nearest`` where that is closer, the input_scale of the
    transformed input.

    Args:
        weight: as the source means it.
        statistics: of the layer's input, with channels and kept rows.
        rounding: a key of ``METHODS``.
        input_policy: a key of ``calibration.POLICIES``.
        exponents: what to try.
        device: where weights are rounded; None for the CPU.
        check: called between pieces; may raise to cancel.
    """
    device = device or torch.device("cpu")
    methods = dict.fromkeys((rounding, "nearest"))

    def measured(weight: Weight, statistics: LayerStatistics) -> Outputs | None:
        amax = activation_range(statistics, input_policy, weight.name).amax
        rows = HeldOut.of(statistics, None if amax is None else input_scale(amax, nvfp4.NAME))
        if rows is None:
            return None
        encodings = (Encoding(METHODS[method], device, check=check, statistics=statistics) for method in methods)
        tried = [outputs(weight, nvfp4.encode(weight, encoding), rows, device, check) for encoding in encodings]
        return min(tried, key=lambda found: float(found.noise().sum()))

    plain = measured(weight, statistics) if missing(statistics) is None else None
    if plain is None:
        return None
    best, chosen = plain, 0.0
    for exponent in exponents:
        scale = pre_quant_scale(statistics, exponent)
        found = measured(replace(weight, divisor=scale), transformed(statistics, scale))
        if found is not None and found.noise().sum() < best.noise().sum() and found.better_than(plain):
            best, chosen = found, exponent
    return Scaling(chosen, best.sqnr_db() - plain.sqnr_db()) if chosen else None
