"""Each kind of matrix multiplication as ComfyUI asks comfy-kitchen for it, for measuring its speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Multiplication:
    """``quantize`` rounds an input, None where it is not rounded; ``multiply`` computes the layer.

    ``together``: ``multiply`` rounds the input as well, because the kernel takes no other.
    """

    quantize: Work | None
    multiply: Work
    together: bool = False


def multiplication(kind: str, values: torch.Tensor, weight: torch.Tensor) -> Multiplication:
    """The work of one layer.

    Args:
        kind: ``bf16``, ``fp8``, ``mxfp8``, ``nvfp4`` or ``int8``.
        values: bfloat16 [M, K] on the device that is measured.
        weight: bfloat16 [N, K] there.
    """
    from comfy_kitchen.tensor import QuantizedTensor, TensorWiseINT8Layout

    linear = torch.nn.functional.linear
    if kind == "bf16":
        return Multiplication(None, lambda: linear(values, weight))
    if kind == "int8":
        stored = QuantizedTensor.from_float(weight, "TensorWiseINT8Layout", per_channel=True)
        return Multiplication(
            lambda: TensorWiseINT8Layout.quantize(values, is_weight=False), lambda: linear(values, stored), True
        )
    layout, static = _LAYOUTS[kind]
    scale = {"scale": values.abs().amax().float() / static} if static else {}
    stored, rounded = QuantizedTensor.from_float(weight, layout), QuantizedTensor.from_float(values, layout, **scale)
    return Multiplication(lambda: QuantizedTensor.from_float(values, layout, **scale), lambda: linear(rounded, stored))


def is_native(kind: str) -> bool:
    """Whether the CUDA device has units for a kind, so that nothing is decoded behind one's back."""
    from comfy_kitchen import tensor

    if kind == "bf16":
        return torch.cuda.is_available()
    name = "TensorWiseINT8Layout" if kind == "int8" else _LAYOUTS[kind][0]
    return bool(getattr(tensor, name).supports_fast_matmul())


_LAYOUTS = {
    "fp8": ("TensorCoreFP8Layout", 448.0),
    "mxfp8": ("TensorCoreMXFP8Layout", 0.0),
    "nvfp4": ("TensorCoreNVFP4Layout", 448.0 * 6.0),
}
"""comfy-kitchen's layout, and by what the largest magnitude is divided for a static scale; 0 where there is none."""
