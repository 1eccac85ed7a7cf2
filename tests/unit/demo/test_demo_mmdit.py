"""The model in SD3's layout: its keys, sizes and shapes."""

from __future__ import annotations

import pytest
import torch

from nvfp4_studio.demo.conditioning import class_conditioning
from nvfp4_studio.demo.mmdit import MMDiT, MMDiTConfig, position_table
from nvfp4_studio.demo.sampling import sample

SMALL = MMDiTConfig(depth=2)


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return MMDiT(SMALL).eval()


def test_config_is_read_off_the_shapes(small_model):
    shapes = {name: tensor.shape for name, tensor in small_model.state_dict().items()}
    assert MMDiTConfig.from_shapes(shapes) == SMALL
    with pytest.raises(ValueError, match="context_embedder.weight is missing"):
        MMDiTConfig.from_shapes({"x_embedder.proj.weight": (128, 16, 2, 2)})


def test_the_last_block_reads_the_text_and_does_not_write_it(small_model):
    names = {name.removeprefix("joint_blocks.1.context_block.") for name in small_model.state_dict()}
    assert {"attn.qkv.weight", "attn.ln_k.weight", "adaLN_modulation.1.weight"} <= names
    assert not {"attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"} & names


def test_forward_is_finite_for_any_even_size(small_model):
    context, pooled = class_conditioning([1, 2])
    for height, width in ((8, 8), (2, 2), (4, 10)):
        out = small_model(torch.randn(2, 16, height, width), torch.tensor([1.0, 0.0]), context, pooled)
        assert out.shape == (2, 16, height, width)
        assert torch.isfinite(out).all()


def test_position_table_is_centred_and_holds_column_before_row():
    table = position_table(4, 8, 16)
    assert table.shape == (32, 16)
    # Token (row 1, column 6): rows span 0 to 15, columns twice as much about the same middle.
    row, column = 15 / 3, -7.5 + 6 * 30 / 7
    angles = torch.tensor([column, row])[:, None] * 10000.0 ** (-torch.arange(4) / 4)
    expected = torch.cat([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()])
    torch.testing.assert_close(table[8 + 6], expected)


def test_sampling_follows_the_models_shift(small_model):
    levels = []

    class Watched(torch.nn.Module):
        shift = MMDiT.shift

        def forward(self, x, sigma, context, pooled):
            levels.append(float(sigma[0]))
            return small_model(x, sigma, context, pooled)

    sample(Watched(), [4], [1], steps=4)
    assert levels == pytest.approx([1.0, 0.9, 0.75, 0.5])
