"""Picture metrics against references written here from the papers' formulas, in plain numpy, and against the figures
that scikit-image 0.26 and the HaarPSI authors' own program give for the same pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.converters.errors import PictureError
from nvfp4_studio.converters.pictures import (
    Trajectory,
    absolute_difference,
    as_saved,
    fitting_gain,
    haarpsi,
    mean_interval,
    nonfinite,
    psnr,
    relative_rms,
    score,
    ssim,
    student_t,
    summarise,
)
from nvfp4_studio.converters.pictures.trajectory import Kept

METRICS = (psnr, ssim, haarpsi)


def picture_pair(height: int, width: int, channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with some noise, and the same with more: float64 [H, W, C] 0..1."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((3 + c) * x / width * 6 + c) * np.cos((2 + c) * y / height * 7) for c in range(channels)]
    first = np.clip(0.5 + 0.3 * np.stack(waves, -1) + 0.05 * random.standard_normal((height, width, channels)), 0, 1)
    return first, np.clip(first + 0.07 * random.standard_normal(first.shape), 0, 1)


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures))


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, window by window."""
    distance = np.arange(11) - 5
    window = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(a.shape[2]):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                one, other = (p[top : top + 11, left : left + 11, channel] for p in (a, b))
                ma, mb = (window * one).sum(), (window * other).sum()
                va, vb = (window * (one - ma) ** 2).sum(), (window * (other - mb) ** 2).sum()
                cov = (window * (one - ma) * (other - mb)).sum()
                values.append(
                    (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)),
                )
    return float(np.mean(values))


def reference_haarpsi(a: np.ndarray, b: np.ndarray) -> float:
    """Reisenhofer et al. 2018, pixel by pixel."""

    def at(plane: np.ndarray, y: int, x: int) -> float:
        return plane[y, x] if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1] else 0.0

    def window(plane: np.ndarray, y: int, x: int, size: int) -> np.ndarray:
        start = size // 2 - 1
        return np.array([[at(plane, y + i - start, x + j - start) for j in range(size)] for i in range(size)])

    def halved(plane: np.ndarray) -> np.ndarray:
        return np.array(
            [[window(plane, y, x, 2).mean() for x in range(0, plane.shape[1], 2)] for y in range(0, plane.shape[0], 2)]
        )

    def haar(plane: np.ndarray, y: int, x: int, size: int, across_rows: bool) -> float:
        values = window(plane, y, x, size)
        values = values if across_rows else values.T
        return abs(values[size // 2 :].sum() - values[: size // 2].sum()) / size

    def alike(one: float, other: float) -> float:
        return (2 * one * other + 30) / (one**2 + other**2 + 30)

    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    planes = [
        [halved(plane) for plane in np.moveaxis(255 * p @ yiq.T if p.shape[2] == 3 else 255 * p, -1, 0)] for p in (a, b)
    ]
    total = weights = 0.0
    for y in range(planes[0][0].shape[0]):
        for x in range(planes[0][0].shape[1]):
            terms = []
            for across_rows in (True, False):
                one, other = ([haar(p[0], y, x, size, across_rows) for size in (2, 4, 8)] for p in planes)
                terms.append(((alike(one[0], other[0]) + alike(one[1], other[1])) / 2, max(one[2], other[2])))
            if len(planes[0]) == 3:
                means = [[abs(window(plane, y, x, 2).mean()) for plane in p[1:]] for p in planes]
                colour = (alike(means[0][0], means[1][0]) + alike(means[0][1], means[1][1])) / 2
                terms.append((colour, (terms[0][1] + terms[1][1]) / 2))
            for similarity, weight in terms:
                total += weight / (1 + math.exp(-4.2 * similarity))
                weights += weight
    mean = total / weights
    return (math.log(mean / (1 - mean)) / 4.2) ** 2


@pytest.mark.parametrize("shape", [(24, 31, 3), (19, 16, 1), (11, 12, 3)])
def test_metrics_equal_their_formulas(shape: tuple[int, int, int]) -> None:
    one, other = picture_pair(*shape)
    pair = batch(one), batch(other)
    assert float(psnr(*pair)) == pytest.approx(10 * math.log10(1 / np.mean((one - other) ** 2)), rel=1e-12)
    assert float(ssim(*pair)) == pytest.approx(reference_ssim(one, other), abs=1e-12)
    assert float(haarpsi(*pair)) == pytest.approx(reference_haarpsi(one, other), abs=1e-12)


def test_metrics_are_those_of_the_published_programs() -> None:
    """scikit-image 0.26.0 (peak_signal_noise_ratio, structural_similarity) and haarPsi.py of 2018-01-08."""
    y, x = np.mgrid[:64, :80]
    one = np.stack([(7 * x + 3 * y) % 256, (x * y) % 251, (5 * y + x * x // 9) % 256], -1) / 255
    other = np.clip(one + np.stack([(x + y) % 17, (3 * x) % 13, (x * y) % 11], -1) / 255 - 0.02, 0, 1)
    found = [float(metric(batch(one), batch(other))) for metric in METRICS]
    assert found == pytest.approx([35.29079184018308, 0.9793584589246939, 0.9737045245030694], abs=1e-9)


def test_each_pair_of_a_batch_has_its_own_number() -> None:
    pairs = [picture_pair(32, 24, 3, seed) for seed in range(3)]
    first, second = batch(*(one for one, _ in pairs)), batch(*(other for _, other in pairs))
    for metric in METRICS:
        alone = torch.cat([metric(batch(one), batch(other)) for one, other in pairs])
        assert torch.equal(metric(first, second), alone)


def test_equal_pictures_and_flat_ones() -> None:
    one = batch(picture_pair(32, 32, 3)[0])
    assert [float(metric(one, one)) for metric in METRICS] == pytest.approx([math.inf, 1, 1], abs=1e-9)
    black, grey = torch.zeros(1, 16, 16, 3), torch.full((1, 16, 16, 3), 0.5)
    assert float(haarpsi(black, black)) == pytest.approx(1)
    assert 0 < float(haarpsi(black, grey)) < 1


def test_bytes_are_read_as_their_255th_and_alpha_is_left_out() -> None:
    one, other = (batch(picture) for picture in picture_pair(24, 24, 3))
    saved = as_saved(one), as_saved(other)
    with_alpha = torch.cat([one, torch.zeros_like(one[..., :1])], dim=-1), torch.cat([other, one[..., :1]], dim=-1)
    for metric in METRICS:
        assert torch.equal(metric(*saved), metric(*(picture.double() / 255 for picture in saved)))
        assert torch.equal(metric(*with_alpha), metric(one, other))


def test_saved_levels_are_those_of_comfyuis_save_nodes() -> None:
    levels = torch.tensor([-0.5, 0.0, 0.0039, 0.00393, 0.5, 0.9999, 1.0, 7.0]).view(1, 2, 4, 1)
    assert as_saved(levels).flatten().tolist() == [0, 0, 0, 1, 127, 254, 255, 255]
    broken = torch.stack([torch.zeros(2, 2, 3), torch.full((2, 2, 3), math.nan), torch.full((2, 2, 3), math.inf)])
    assert nonfinite(broken) == [1, 2]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            (1, 16, 16, 3),
            (1, 16, 17, 3),
            "1 picture of 16 x 16, 3 channels cannot be compared with 1 picture of 17 x 16",
        ),
        ((2, 16, 16, 3), (1, 16, 16, 3), "2 pictures of 16 x 16"),
        ((1, 16, 16, 3), (2, 16, 16, 3), "1 picture of 16 x 16, 3 channels cannot be compared with 2 pictures"),
        ((16, 16, 3), (16, 16, 3), r"\[16, 16, 3\]"),
        ((1, 3, 16, 16), (1, 3, 16, 16), "1, 3 or 4 channels"),
    ],
)
def test_what_cannot_be_compared_is_refused(first: tuple[int, ...], second: tuple[int, ...], words: str) -> None:
    for metric in (*METRICS, score):
        with pytest.raises(PictureError, match=words):
            metric(torch.zeros(first), torch.zeros(second))


def test_pictures_below_the_window_of_ssim_are_refused() -> None:
    with pytest.raises(PictureError, match="11 x 11"):
        ssim(torch.zeros(1, 10, 64, 3), torch.zeros(1, 10, 64, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from([1, 3]))
def test_metrics_are_symmetric_and_within_their_ranges(seed: int, strength: float, channels: int) -> None:
    random = torch.Generator().manual_seed(seed)
    one = torch.rand(1, 13, 17, channels, generator=random)
    other = one.lerp(torch.rand(1, 13, 17, channels, generator=random), strength)
    for metric, (low, high) in zip(METRICS, [(0, math.inf), (-1, 1), (0, 1)], strict=True):
        value = float(metric(one, other))
        assert low - 1e-9 <= value <= high + 1e-9
        assert value == pytest.approx(float(metric(other, one)), rel=1e-9)


def test_summary_leaves_equal_pairs_out_of_the_mean_of_psnr() -> None:
    one, other = picture_pair(24, 24, 3)
    done: list[tuple[int, int]] = []
    scores = score(batch(one, one, one), batch(other, one, (one + other) / 2), lambda *step: done.append(step))
    summary = summarise(scores)
    assert (summary.pairs, summary.equal, summary.worst) == (3, 1, 0)
    assert summary.psnr == pytest.approx((scores[0].psnr + scores[2].psnr) / 2)
    assert summary.ssim == pytest.approx(sum(pair.ssim for pair in scores) / 3)
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert summarise(scores[1:2]).psnr == math.inf


def test_difference_maps_show_where() -> None:
    one, other = torch.full((1, 2, 2, 1), 0.5), torch.tensor([0.5, 0.52, 0.49, 1.0]).view(1, 2, 2, 1)
    assert absolute_difference(one, other, 10).flatten().tolist() == pytest.approx([0, 0.2, 0.1, 1], abs=1e-6)


@pytest.mark.parametrize(("change", "gain"), [(0.0, 100), (0.009, 100), (0.011, 50), (0.3, 2), (0.9, 1)])
def test_gain_fits_nearly_all_differences(change: float, gain: int) -> None:
    one = torch.zeros(1, 100, 100, 1)
    other = torch.full_like(one, change)
    other[0, 0, :5] = 1.0
    assert fitting_gain(one, other) == gain


@pytest.mark.parametrize(
    ("freedom", "confidence", "quantile"),
    [(1, 0.95, 12.7062047), (2, 0.95, 4.3026527), (3, 0.95, 3.1824463), (10, 0.95, 2.2281389), (9, 0.99, 3.2498355),
     (120, 0.95, 1.9799304), (30, 0.9, 1.6972609)],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(freedom: int, confidence: float, quantile: float) -> None:
    assert student_t(freedom, confidence) == pytest.approx(quantile, rel=1e-7)


def test_intervals_of_means() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (interval.mean, interval.count) == (3.5, 6)
    assert interval.half_width == pytest.approx(2.570582 * 1.8708287 / math.sqrt(6), rel=1e-6)
    assert (interval.low + interval.high) / 2 == pytest.approx(3.5)
    assert mean_interval([2.0]).half_width == math.inf
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, math.inf])


def test_trajectory_measures_each_step_of_each_latent() -> None:
    random = torch.Generator().manual_seed(3)
    first, second = (torch.randn(4, 2, 16, 3, 8, 8, generator=random) for _ in range(2))
    trajectory = Trajectory(steps=4)
    for step in range(4):
        trajectory.keep(step, first[step])
    for step in range(4):
        trajectory.compare(step, second[step])
    assert trajectory.kept == Kept(torch.float32, 1)
    for step, errors in trajectory.errors.items():
        for number, found in enumerate(errors):
            a, b = first[step, number].double(), second[step, number].double()
            assert found == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-9)
    assert sorted(trajectory.errors) == [0, 1, 2, 3]


def test_trajectory_stays_within_its_memory() -> None:
    latent = torch.ones(1, 16, 8, 8)
    assert Kept.within(10, 1000, limit=40_000) == Kept(torch.float32, 1)
    assert Kept.within(10, 1000, limit=20_000) == Kept(torch.float16, 1)
    assert Kept.within(10, 1000, limit=7_000) == Kept(torch.float16, 3)
    trajectory = Trajectory(steps=10, limit=3 * latent.numel() * 2)
    for step in range(10):
        trajectory.keep(step, latent)
    for step in range(10):
        trajectory.compare(step, latent)
    assert trajectory.errors == {0: [0.0], 4: [0.0], 8: [0.0]}
    longer_than_told = Trajectory(steps=2, limit=2 * latent.numel() * 4)
    for step in range(10):
        longer_than_told.keep(step, latent)
    for step in range(10):
        longer_than_told.compare(step, latent)
    assert sorted(longer_than_told.errors) == [0, 1]


def test_equal_latents_have_no_error_even_where_all_is_zero() -> None:
    assert relative_rms(torch.zeros(2, 4), torch.tensor([[0.0] * 4, [1.0] * 4])) == [0.0, math.inf]
