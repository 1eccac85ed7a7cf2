"""What a kernel makes of its input, against comfy-kitchen's own kernels: whole layers and the quantizers alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

ck = pytest.importorskip("comfy_kitchen")
from comfy_kitchen.backends.eager import convrot_w4a4, quantization, w4a8_int8  # noqa: E402
from comfy_kitchen.tensor import TensorCoreFP8Layout, TensorCoreNVFP4Layout  # noqa: E402

from nvfp4_studio.converters.formats import FORMATS, POLICIES, Encoding, Weight  # noqa: E402
from nvfp4_studio.converters.rounding import METHODS  # noqa: E402
from nvfp4_studio.converters.stored import Encoded  # noqa: E402

ROWS, OUTPUTS, INPUTS = 48, 64, 512


def values(dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Rows with outlier channels, a zero row and a zero block."""
    found = torch.randn(ROWS, INPUTS, generator=torch.Generator().manual_seed(seed))
    found[:, ::97] *= 30
    found[3] = 0
    found[5, 16:48] = 0
    return found.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [None, 0.05, 0.004])
def test_nvfp4_is_what_its_layout_quantizes(dtype: torch.dtype, scale: float | None) -> None:
    rows = values(dtype)
    stored, params = TensorCoreNVFP4Layout.quantize(rows, scale=None if scale is None else torch.tensor(scale))
    expected = TensorCoreNVFP4Layout.dequantize(stored, dataclasses.replace(params, orig_dtype=torch.float32))
    assert torch.equal(FORMATS["nvfp4"].quantized_input(rows, scale, {}), expected[:ROWS, :INPUTS])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [None, 0.05, 0.004])
def test_fp8_is_what_its_layout_quantizes_and_clamps_without_a_scale(dtype: torch.dtype, scale: float | None) -> None:
    rows = values(dtype) * 20
    stored, params = TensorCoreFP8Layout.quantize(rows, scale=torch.tensor(1.0 if scale is None else scale))
    found = FORMATS["float8_e4m3fn"].quantized_input(rows, scale, {"format": "float8_e4m3fn"})
    assert torch.equal(found, stored.float() * params.scale)
    assert float(found.abs().amax()) <= 448 * (scale or 1.0) * 1.0001


@pytest.mark.parametrize("columns", [INPUTS, 80])
def test_mxfp8_is_what_its_layout_quantizes(columns: int) -> None:
    rows = values(torch.bfloat16)[:, :columns]
    stored, scales = ck.quantize_mxfp8(rows, pad_32x=True)
    expected = ck.dequantize_mxfp8(stored, scales, torch.float32)[:ROWS, :columns]
    assert torch.equal(FORMATS["mxfp8"].quantized_input(rows, None, {}), expected)


def encoded(policy: str) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, object]]:
    weight = Weight("w", torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1)) * 0.02)
    fields = {"format": POLICIES[policy].NAME, **POLICIES[policy].POLICIES[policy]}
    tensors = POLICIES[policy].encode(weight, Encoding(METHODS["nearest"], fields=fields))
    decoded = POLICIES[policy].decoder(Encoded("w", (OUTPUTS, INPUTS), fields, tensors))(0, OUTPUTS)
    return decoded, tensors, fields


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("policy", ["int8_tensorwise", "int8_convrot"])
def test_int8_computes_what_its_kernel_computes(policy: str, dtype: torch.dtype) -> None:
    decoded, tensors, fields = encoded(policy)
    rows = values(dtype)
    kernel = quantization.int8_linear(
        rows, tensors["weight"], tensors["weight_scale"], out_dtype=torch.float32, convrot=policy == "int8_convrot"
    )
    torch.testing.assert_close(
        FORMATS["int8_tensorwise"].quantized_input(rows, None, fields) @ decoded.T, kernel, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_w4a8_computes_what_its_kernel_computes(dtype: torch.dtype) -> None:
    decoded, tensors, fields = encoded("asym_w4a8_int8")
    rows = values(dtype)
    kernel = w4a8_int8.w4a8_int8_linear(
        rows,
        tensors["weight"],
        tensors["weight_s_rel"],
        tensors["weight_s_channel"],
        tensors["weight_codebook"],
        out_dtype=torch.float32,
    )
    found = FORMATS["asym_w4a8_int8"].quantized_input(rows, None, fields) @ decoded.T
    torch.testing.assert_close(found, kernel, rtol=1e-5, atol=1e-5)


def test_convrot_w4a4_computes_what_its_kernel_computes() -> None:
    decoded, tensors, fields = encoded("convrot_w4a4")
    rows = values(torch.float32)
    kernel = convrot_w4a4.convrot_w4a4_linear(rows, tensors["weight"], tensors["weight_scale"])
    found = FORMATS["convrot_w4a4"].quantized_input(rows, None, fields) @ decoded.T
    torch.testing.assert_close(found, kernel, rtol=1e-5, atol=1e-5)
