"""FP8 with one float32 scale a tensor, as stock ComfyUI stores it: ``weight`` and ``weight_scale``.

A weight is ``float8 · weight_scale``. Upcasting is exact: every product of an FP8 value (at most 4
significant bits) and a float32 scale is computed in float32 and rounded once.
"""

from __future__ import annotations

import torch

from ..errors import ConversionError, SourceError
from ..rounding.e2m1 import positive

NAME = "float8_e4m3fn"
E4M3_MAX = 448.0


def declare(shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Tensors of a layer that is quantized to FP8 here."""
    return {"weight": (torch.float8_e4m3fn, shape), "weight_scale": (torch.float32, ())}


def encode(weight: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """Quantize a weight [N, K] of any float dtype with scale amax / 448, nearest rounding.

    All zero weights get scale 1.

    Raises:
        ConversionError: the weight holds NaN or infinity.
    """
    values = weight.float()
    amax = finite(values.abs().amax(), name) if values.numel() else torch.zeros(())
    scale = positive(amax / E4M3_MAX)
    return {
        "weight": (values / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn),
        "weight_scale": scale.reshape(()),
    }


def finite(amax: torch.Tensor, name: str) -> torch.Tensor:
    """Return a weight's largest magnitude if it is a number.

    Raises:
        ConversionError: NaN or infinity; no scale could hold such a weight.
    """
    if not bool(torch.isfinite(amax)):
        raise ConversionError(
            f"The weights of layer {name} hold NaN or infinity; the source is damaged, get it from its author again."
        )
    return amax


def upcast(weight: torch.Tensor, scale: torch.Tensor | None, name: str) -> torch.Tensor:
    """Float32 values of an FP8 weight [N, K] (or of some of its rows, with their scales).

    Args:
        weight: float8_e4m3fn or float8_e5m2.
        scale: None for a raw cast, one value for the tensor, or one for each row.

    Raises:
        SourceError: a scale of another size, or one that is not finite and positive.
    """
    # By look-up, because torch converts FP8 on a CPU at a fifth of this speed.
    table = torch.arange(256, dtype=torch.uint8, device=weight.device).view(weight.dtype).float()
    index = weight.view(torch.uint8).reshape(-1).int()
    values = torch.index_select(table, 0, index).reshape(weight.shape)
    if scale is None:
        return values
    factor = scale.float()
    if factor.numel() not in (1, weight.shape[0]):
        raise SourceError(
            f"Layer {name} has {factor.numel()} scales for {weight.shape[0]} rows; only one a tensor or one a row is known."
        )
    if not bool(torch.isfinite(factor).all()) or not bool((factor > 0).all()):
        raise SourceError(f"Layer {name} has a weight scale that is not a positive number; the source is damaged.")
    return values.mul_(factor.reshape(-1, 1))
