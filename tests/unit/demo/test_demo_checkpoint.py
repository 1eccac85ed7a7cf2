"""The committed FP8 checkpoint: what ComfyUI will read, and that it draws the digit that was asked for."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from nvfp4_studio.demo.checkpoint import is_block_linear, quantize_fp8, save_fp8
from nvfp4_studio.demo.mmdit import MMDiTConfig
from nvfp4_studio.demo.model import FluxConfig
from nvfp4_studio.demo.run import SOURCE
from nvfp4_studio.demo.runtime import load_model
from nvfp4_studio.demo.sampling import sample
from nvfp4_studio.demo.train import CHECKPOINTS

LAYERS = {"flux": 26, "sd3": 27}
OUTSIDE = {
    "flux": {"img_in.weight", "txt_in.weight", "vector_in.in_layer.weight", "final_layer.linear.weight"},
    "sd3": {
        "x_embedder.proj.weight",
        "context_embedder.weight",
        "y_embedder.mlp.0.weight",
        "final_layer.linear.weight",
    },
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def stored(layout):
    with safe_open(str(CHECKPOINTS[layout]), framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(("layout", "most"), [("flux", 10_000_000), ("sd3", 4_500_000)], indirect=["layout"])
def test_checkpoint_is_small_enough_to_commit(layout, most):
    assert CHECKPOINTS[layout].stat().st_size < most


def test_sizes_are_read_off_the_shapes(stored, layout):
    shapes = {name: tensor.shape for name, tensor in stored[1].items()}
    if layout == "sd3":
        assert MMDiTConfig.from_shapes(shapes) == MMDiTConfig()
    else:
        assert FluxConfig.from_shapes(shapes) == FluxConfig()


def test_header_and_tags_say_the_same_of_every_block_linear(stored, layout):
    header, tensors = stored
    layers = json.loads(header["_quantization_metadata"])["layers"]
    tagged = {
        name.removesuffix(".comfy_quant"): json.loads(bytes(tensor.tolist()))
        for name, tensor in tensors.items()
        if name.endswith(".comfy_quant")
    }
    assert layers == tagged
    assert len(layers) == LAYERS[layout]
    for layer in layers:
        assert tensors[f"{layer}.weight"].dtype == torch.float8_e4m3fn
        scale = tensors[f"{layer}.weight_scale"]
        assert scale.dtype == torch.float32
        assert scale.shape == ()
        assert tensors[f"{layer}.weight"].float().abs().max() == 448.0


def test_everything_outside_the_block_linears_is_bf16(stored, layout):
    header, tensors = stored
    layers = json.loads(header["_quantization_metadata"])["layers"]
    parts = {f"{layer}.{part}" for layer in layers for part in ("weight", "weight_scale", "comfy_quant")}
    rest = {name: tensor.dtype for name, tensor in tensors.items() if name not in parts}
    assert set(rest.values()) == {torch.bfloat16}
    assert rest.keys() >= OUTSIDE[layout]


def test_header_tells_how_it_was_trained(stored):
    settings = json.loads(stored[0]["training_settings"])
    assert settings["steps"] >= 4000
    assert settings["loss"] < 0.2


def test_sampled_digits_are_the_asked_ones(layout):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    digits = datasets.load_digits()
    pictures = torch.tensor(digits.images, dtype=torch.float32) / 16.0
    centroids = torch.stack([pictures[torch.tensor(digits.target == label)].mean(0) for label in range(10)])

    from nvfp4_studio.demo.data import unfold

    labels = [label for label in range(10) for _ in range(4)]
    drawn = unfold(sample(load_model(CHECKPOINTS[layout]), labels, list(range(len(labels))), steps=12))
    # Averaging 4 x 4 pixels undoes the enlargement to 32 x 32.
    small = torch.nn.functional.avg_pool2d(drawn[:, None], 4)[:, 0]
    nearest = torch.cdist(small.flatten(1), centroids.flatten(1)).argmin(1)
    # The same rule recognises about 90 % of the real digits.
    assert (nearest == torch.tensor(labels)).float().mean() >= 0.85


def test_two_seeds_of_one_class_differ():
    one, other = sample(load_model(SOURCE), [3, 3], [1, 2], steps=8)
    assert (one - other).square().mean() > 1e-3


def test_quantize_fp8_uses_the_whole_range_and_keeps_zeros():
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
    rounded, scale = quantize_fp8(weight)
    assert rounded.float().abs().max() == 448.0
    torch.testing.assert_close(rounded.float() * scale, weight, rtol=2**-4, atol=float(scale) * 2**-9)
    zeros, one = quantize_fp8(torch.zeros(4, 4))
    assert one == 1.0
    assert not zeros.float().any()


def test_save_leaves_nothing_when_it_fails(tmp_path):
    with pytest.raises(TypeError):
        save_fp8({"img_in.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors", {"title": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("double_blocks.0.img_attn.qkv.weight", (6, 2), True),
        ("joint_blocks.0.context_block.attn.qkv.weight", (6, 2), True),
        ("double_blocks.0.img_attn.qkv.bias", (6,), False),
        ("double_blocks.0.img_attn.norm.query_norm.scale", (4,), False),
        ("img_in.weight", (4, 4), False),
    ],
)
def test_only_block_matrices_become_fp8(name, shape, expected):
    assert is_block_linear(name, torch.zeros(shape)) is expected
