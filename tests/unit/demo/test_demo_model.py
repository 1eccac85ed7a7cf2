"""Model, conditioning, data fold and sampler: shapes, determinism, and known values."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import nn

from nvfp4_studio.demo.attention import rotary_table
from nvfp4_studio.demo.conditioning import CONTEXT_WIDTH, POOLED_WIDTH, TOKENS, class_conditioning
from nvfp4_studio.demo.data import COMFY_SCALE, COMFY_SHIFT, fold, from_comfy, unfold
from nvfp4_studio.demo.model import FluxConfig, FluxTransformer, timestep_features
from nvfp4_studio.demo.sampling import sample, schedule, start_noise
from nvfp4_studio.demo.sheet import contact_sheet, psnr

SMALL = FluxConfig(hidden=128, double_blocks=1, single_blocks=1)


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return FluxTransformer(SMALL).eval()


def test_conditioning_is_deterministic_and_separates_classes():
    context, pooled = class_conditioning(range(10))
    assert context.shape == (10, TOKENS, CONTEXT_WIDTH)
    assert pooled.shape == (10, POOLED_WIDTH)
    assert context.dtype == pooled.dtype == torch.float32
    again = class_conditioning(torch.arange(10))
    assert torch.equal(context, again[0])
    assert torch.equal(pooled, again[1])
    for features in (context.flatten(1), pooled):
        assert torch.allclose(features.square().mean(1).sqrt(), torch.ones(10), atol=0.15)
        cosine = nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
        assert (cosine - torch.eye(10)).abs().max() < 0.6


@pytest.mark.parametrize("label", [-1, 10])
def test_conditioning_refuses_a_class_that_does_not_exist(label):
    with pytest.raises(ValueError, match=f"0 to 9, got .*{label}"):
        class_conditioning([label])


def test_conditioning_does_not_depend_on_the_batch():
    alone = class_conditioning([7])
    among = class_conditioning([1, 7, 3])
    assert torch.equal(alone[0][0], among[0][1])
    assert torch.equal(alone[1][0], among[1][1])


def test_fold_and_unfold_are_inverse():
    pictures = torch.rand(3, 32, 32)
    latents = fold(pictures)
    assert latents.shape == (3, 16, 8, 8)
    torch.testing.assert_close(unfold(latents), pictures)
    assert latents[1, 4 * 2 + 3, 5, 6] == pictures[1, 4 * 5 + 2, 4 * 6 + 3] * 2 - 1


def test_from_comfy_inverts_the_latent_format():
    latents = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(from_comfy(latents / COMFY_SCALE + COMFY_SHIFT), latents)


def test_forward_is_finite_for_any_even_size(small_model):
    context, pooled = class_conditioning([1, 2])
    for height, width in ((8, 8), (2, 2), (4, 10)):
        out = small_model(torch.randn(2, 16, height, width), torch.tensor([1.0, 0.0]), context, pooled)
        assert out.shape == (2, 16, height, width)
        assert torch.isfinite(out).all()


def test_config_is_read_off_the_shapes(small_model):
    shapes = {name: tensor.shape for name, tensor in small_model.state_dict().items()}
    assert FluxConfig.from_shapes(shapes) == SMALL
    with pytest.raises(ValueError, match="txt_in.weight is missing"):
        FluxConfig.from_shapes({"img_in.weight": (128, 64)})
    with pytest.raises(ValueError, match="100 wide"):
        FluxConfig.from_shapes({**shapes, "img_in.weight": (100, 64)})


def test_timestep_features_are_cosines_then_sines_of_a_thousand_sigma():
    features = timestep_features(torch.tensor([0.0, 0.5]))
    assert features.shape == (2, 256)
    assert torch.equal(features[0], torch.cat((torch.ones(128), torch.zeros(128))))
    assert features[1, 0].item() == pytest.approx(math.cos(500.0), abs=1e-4)
    assert features[1, 128].item() == pytest.approx(math.sin(500.0), abs=1e-4)


def test_rotary_table_leaves_text_unturned_and_turns_by_position():
    table = rotary_table(2, 3, 4)
    assert table.shape == (2 + 12, 64)
    assert torch.equal(table[:3], torch.ones(3, 64, dtype=torch.complex64))
    # Token (row 2, column 1): 8 pairs of the first axis still, then 28 by row, 28 by column.
    token = table[2 + 2 * 4 + 1].angle()
    assert not token[:8].any()
    assert token[8].item() == pytest.approx(2.0)
    assert token[8 + 28].item() == pytest.approx(1.0)


def test_schedule_is_a_straight_line_or_bent_by_its_shift():
    assert schedule(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert schedule(4, shift=3.0).tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    with pytest.raises(ValueError, match="got 0"):
        schedule(0)


def test_a_picture_does_not_depend_on_its_batch(small_model):
    together = sample(small_model, [4, 5], [10, 11], steps=2)
    alone = sample(small_model, [5], [11], steps=2)
    torch.testing.assert_close(together[1:], alone)
    assert torch.equal(start_noise([10, 11])[1], start_noise([11])[0])


def test_sampler_reports_levels_and_steps(small_model):
    levels, steps = [], []

    @contextlib.contextmanager
    def observing(level):
        levels.append(level)
        yield

    sample(small_model, [0], [0], steps=4, observing=observing, on_step=lambda done, total: steps.append((done, total)))
    assert levels == [1.0, 0.75, 0.5, 0.25]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(ValueError, match="2 labels and 1 seeds"):
        sample(small_model, [0, 1], [0])


def test_euler_follows_an_exact_flow():
    """For the velocity of a single point every step stays on the line, so one step is as good as ten."""
    point = torch.full((1, 16, 8, 8), 0.25)

    class Line(nn.Module):
        shift = 1.0

        def forward(self, x, sigma, context, pooled):
            return (x - point) / sigma[:, None, None, None]

    for steps in (1, 10):
        torch.testing.assert_close(sample(Line(), [0], [0], steps=steps), point, atol=1e-5, rtol=0)


def test_psnr_of_known_errors():
    assert psnr(torch.zeros(2, 2), torch.full((2, 2), 0.1)) == pytest.approx(20.0, abs=1e-5)
    assert psnr(torch.ones(2), torch.ones(2)) == math.inf


def test_contact_sheet_shows_pairs_in_rows_of_ten():
    pictures = torch.rand(12, 32, 32)
    sheet = contact_sheet("title", list(range(10)) + [0, 1], list(range(12)), pictures, pictures)
    ten = contact_sheet("title", list(range(10)), list(range(10)), pictures[:10], pictures[:10])
    assert sheet.width == ten.width
    assert sheet.height > ten.height > 3 * 96
