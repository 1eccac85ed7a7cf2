"""The runtime's Linear against comfy-kitchen's own eager kernels, and its reading of the stored form."""

from __future__ import annotations

import json

import comfy_kitchen as ck
import pytest
import torch
import torch.nn.functional as F
from comfy_kitchen.tensor import QuantizedTensor, TensorCoreFP8Layout, TensorCoreNVFP4Layout
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import linear_layers
from nvfp4_studio.demo.checkpoint import save_fp8
from nvfp4_studio.demo.conditioning import class_conditioning
from nvfp4_studio.demo.model import FluxConfig, FluxTransformer
from nvfp4_studio.demo.runtime import Linear, layer_metadata, load_model


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(32, 64, generator=generator) * 0.1
    bias = torch.randn(32, generator=generator)
    x = torch.randn(2, 5, 64, generator=generator) * 3.0
    return weight, bias, x


def fp8_layer(weight, bias, quantize, **extra):
    scale = weight.abs().amax() / 448.0
    stored = {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale, "bias": bias, **extra}
    layer = Linear(64, 32)
    layer.load("layer", stored, {"format": "float8_e4m3fn"}, quantize)
    return layer, stored


def nvfp4_layer(weight, bias, quantize, **extra):
    scale = weight.abs().amax() / 2688.0
    codes, blocks = ck.quantize_nvfp4(weight, scale)
    stored = {"weight": codes, "weight_scale": blocks, "weight_scale_2": scale, "bias": bias, **extra}
    layer = Linear(64, 32)
    layer.load("layer", stored, {"format": "nvfp4"}, quantize)
    return layer, stored


def test_fp8_without_activation_rounding_is_the_dequantized_matmul(tensors):
    weight, bias, x = tensors
    layer, stored = fp8_layer(weight, bias, quantize=False)
    expected = F.linear(x, stored["weight"].float() * stored["weight_scale"], bias)
    assert torch.equal(layer(x), expected)


def test_fp8_rounds_its_input_with_input_scale(tensors):
    weight, bias, x = tensors
    scale = x.abs().amax() / 448.0
    layer, stored = fp8_layer(weight, bias, quantize=True, input_scale=scale)
    quantized = QuantizedTensor.from_float(x.reshape(-1, 64), "TensorCoreFP8Layout", scale=scale)
    held = TensorCoreFP8Layout.Params(scale=stored["weight_scale"], orig_dtype=torch.float32, orig_shape=(32, 64))
    expected = F.linear(quantized.dequantize(), TensorCoreFP8Layout.dequantize(stored["weight"], held), bias)
    torch.testing.assert_close(layer(x), expected.reshape(2, 5, 32), rtol=1e-6, atol=1e-6)
    assert not torch.equal(layer(x), fp8_layer(weight, bias, quantize=False)[0](x))


def test_fp8_without_input_scale_clamps_at_448_as_comfyui_does(tensors):
    weight, bias, _ = tensors
    layer, _ = fp8_layer(weight, bias, quantize=True)
    huge = torch.full((1, 64), 2000.0)
    assert torch.equal(layer(huge), layer(torch.full((1, 64), 448.0)))


def test_full_precision_mark_keeps_the_input(tensors):
    weight, bias, x = tensors
    exact, stored = fp8_layer(weight, bias, quantize=False)
    layer = Linear(64, 32)
    layer.load("layer", stored, {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}, quantize=True)
    assert torch.equal(layer(x), exact(x))


@pytest.mark.parametrize("static", [True, False], ids=["input_scale", "dynamic"])
def test_nvfp4_equals_the_eager_kernels(tensors, static):
    weight, bias, x = tensors
    scale = x.abs().amax() * 2 / 2688.0 if static else None
    layer, stored = nvfp4_layer(weight, bias, quantize=True, **({"input_scale": scale} if static else {}))

    held = TensorCoreNVFP4Layout.Params(
        scale=stored["weight_scale_2"],
        orig_dtype=torch.float32,
        orig_shape=(32, 64),
        block_scale=stored["weight_scale"],
    )
    stored_weight = QuantizedTensor(stored["weight"], "TensorCoreNVFP4Layout", held)
    rounded = QuantizedTensor.from_float(x.reshape(-1, 64), "TensorCoreNVFP4Layout", scale=scale)
    # comfy-kitchen pads the rows of an input to 16 and cuts the product back to the ten that there are.
    expected = F.linear(rounded.dequantize()[:10], stored_weight.dequantize(), bias)
    torch.testing.assert_close(layer(x), expected.reshape(2, 5, 32), rtol=1e-6, atol=1e-6)


def test_nvfp4_emulated_keeps_the_input(tensors):
    weight, bias, x = tensors
    layer, stored = nvfp4_layer(weight, bias, quantize=False)
    held = ck.dequantize_nvfp4(stored["weight"], stored["weight_scale_2"], stored["weight_scale"], torch.float32)
    assert torch.equal(layer(x), F.linear(x, held, bias))


def test_pre_quant_scale_multiplies_the_input(tensors):
    weight, bias, x = tensors
    smooth = torch.linspace(0.5, 2.0, 64)
    layer, _ = nvfp4_layer(weight, bias, quantize=True, pre_quant_scale=smooth)
    plain, _ = nvfp4_layer(weight, bias, quantize=True)
    assert torch.equal(layer(x), plain(x * smooth))


@pytest.mark.parametrize(
    ("layer_format", "missing"), [("float8_e4m3fn", "weight_scale"), ("nvfp4", "weight_scale_2"), ("int3", "")]
)
def test_incomplete_or_unknown_layers_are_refused(tensors, layer_format, missing):
    weight, bias, _ = tensors
    layer = Linear(64, 32)
    with pytest.raises(ValueError, match=missing or "int3"):
        layer.load("blocks.0.proj", {"weight": weight, "bias": bias}, {"format": layer_format}, True)


def test_header_wins_over_tags():
    tag = torch.tensor(list(json.dumps({"format": "nvfp4"}).encode()), dtype=torch.uint8)
    header = {"_quantization_metadata": json.dumps({"layers": {"a": {"format": "float8_e4m3fn"}}})}
    layers = layer_metadata(header, {"a.comfy_quant": tag, "b.comfy_quant": tag, "a.weight": torch.zeros(1)})
    assert layers == {"a": {"format": "float8_e4m3fn"}, "b": {"format": "nvfp4"}}


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    torch.manual_seed(1)
    model = FluxTransformer(FluxConfig(hidden=128, double_blocks=1, single_blocks=1)).eval()
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_fp8(model.state_dict(), path, {"title": "small"})
    return model, path


def test_loaded_model_is_close_to_what_was_saved(small_file):
    model, path = small_file
    context, pooled = class_conditioning([4])
    x, sigma = torch.randn(1, 16, 8, 8), torch.tensor([0.5])
    with torch.no_grad():
        expected, found = model(x, sigma, context, pooled), load_model(path)(x, sigma, context, pooled)
    assert (found - expected).norm() / expected.norm() < 0.05


def test_prefixed_file_loads_the_same(small_file, tmp_path):
    _, path = small_file
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    bare, other = load_model(path), load_model(tmp_path / "prefixed.safetensors")
    for (name, one), (_, two) in zip(bare.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


def test_every_linear_can_be_calibrated(small_file):
    layers, left_out = linear_layers(load_model(small_file[1]))
    assert len(layers) == 8 + 13
    assert not left_out
    assert all(type(layer) is Linear for layer in layers.values())


def test_missing_and_foreign_tensors_are_named(small_file, tmp_path):
    stored = load_file(small_file[1])
    save_file({**stored, "stray.weight": torch.zeros(1)}, tmp_path / "stray.safetensors")
    with pytest.raises(ValueError, match=r"stray\.weight"):
        load_model(tmp_path / "stray.safetensors")
    del stored["single_blocks.0.linear1.weight"]
    save_file(stored, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match=r"single_blocks\.0\.linear1\.weight is missing"):
        load_model(tmp_path / "short.safetensors")
