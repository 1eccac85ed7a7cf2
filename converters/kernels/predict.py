"""Predicted seconds of one Linear layer: a roofline over what the table says.

For M rows, K input and N output channels

* multiplying takes the longer of ``2·M·N·K / tflops`` and moving weight, input and output once;
* a quantized input is first read in BF16 and written in its format (``quantizing``, else the bandwidth); NVFP4
  without input_scale reads it once more for its amax;
* a weight that the GPU cannot multiply by is decoded on every call: read and written in BF16, which is then multiplied.

What this leaves out are launches, and kernels that miss their peak by more than others. Ratios of times are worth
more than times.
"""

from __future__ import annotations

from ..formats import convrot_w4a4, fp8, int8, mxfp8, nvfp4, w4a8_int8
from .table import KernelTable

OTHER_SHARE = 0.6
"""What no layer's format changes, as a share of the Linear layers' time in FP8: attention, norms, modulation.

From Qwen-Image at 1024²: 60 blocks of width 3072 over 4096 + 200 tokens. Attention's 4·T²·d operations in BF16 are 0.46 of
the Linear layers' 24·T·d² in FP8 at half the price each; twenty passes over the activations at the memory's speed are
another 0.14.
"""
_KERNELS = {
    nvfp4.NAME: "nvfp4",
    fp8.NAME: "fp8",
    mxfp8.NAME: "mxfp8",
    int8.NAME: "int8",
    w4a8_int8.NAME: "int8",
    convrot_w4a4.NAME: "int8",
}
"""By stored format. comfy-kitchen multiplies four-bit integers as INT8 where a GPU has no units for them, as since Hopper."""
_INPUT_BYTES = {"bf16": 2.0, "fp8": 1.0, "mxfp8": 1.03, "nvfp4": 0.5625, "int8": 1.0}


def kernel_of(stored_format: str, full_precision: bool) -> str:
    """The kind of kernel that multiplies by a layer of this format; ``bf16`` where its input is not quantized."""
    return "bf16" if full_precision else _KERNELS.get(stored_format, "bf16")


def layer_seconds(
    table: KernelTable,
    kernel: str,
    shape: tuple[int, int],
    rows: float,
    weight_bytes: int,
    *,
    decoded: bool = False,
    dynamic: bool = False,
) -> float:
    """Seconds of one call of a layer.

    Args:
        kernel: of ``KERNELS``.
        shape: (out_features, in_features).
        rows: of the input.
        weight_bytes: of the weight as it is stored, scales included.
        decoded: the weight is stored quantized and decoded before it is multiplied by.
        dynamic: the input is measured before it is quantized.
    """
    outputs, inputs = shape
    bandwidth = table.bandwidth * 1e9
    if kernel not in table.tflops:
        kernel, decoded, dynamic = "bf16", True, False
    whole = 2.0 * outputs * inputs
    extra = (weight_bytes + whole) / bandwidth if decoded else 0.0
    multiplied = whole if decoded else float(weight_bytes)
    operations = 2.0 * rows * outputs * inputs / (table.tflops[kernel] * 1e12)
    moved = (multiplied + rows * (inputs * _INPUT_BYTES[kernel] + outputs * 2.0)) / bandwidth
    if kernel != "bf16":
        read = rows * inputs * 2.0
        own = table.quantizing.get(kernel)
        extra += read / (own * 1e9) if own else (read + rows * inputs * _INPUT_BYTES[kernel]) / bandwidth
        extra += read / bandwidth if dynamic else 0.0
    return max(operations, moved) + extra
