from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.calibration import Calibration, LayerStatistics
from nvfp4_studio.calibration.convergence import FOLDS, fold_of, largest_change
from nvfp4_studio.calibration.coverage import coverage
from nvfp4_studio.calibration.statistics import empty_histogram
from nvfp4_studio.demo.sampling import schedule

FULL = torch.full((FOLDS,), 2)


def layer(folds: list[float]) -> LayerStatistics:
    none = empty_histogram()
    return LayerStatistics(
        16, 16, 1, 1, 0, 0, max(folds), none, none, none, torch.zeros(2, 16), fold_amax=torch.tensor(folds)
    )


def test_the_change_is_the_worst_of_leaving_out_two_folds() -> None:
    folds = torch.tensor([3.0, 1.0, 8.0, 2.0, 4.0, 4.0, 1.0, 0.5])
    worst = max(
        1 - max(float(folds[index]) for index in range(FOLDS) if index not in left) / 8.0
        for left in itertools.combinations(range(FOLDS), 2)
    )
    assert largest_change(folds, FULL) == pytest.approx(worst)
    assert largest_change(torch.zeros(FOLDS), FULL) == 0.0


@pytest.mark.parametrize("samplings", [[1] * 7 + [0], [9, 0, 0, 0, 9, 9, 9, 9], [0] * 8])
def test_few_samplings_or_folds_tell_nothing(samplings: list[int]) -> None:
    assert largest_change(torch.ones(FOLDS), torch.tensor(samplings)) is None


def test_the_verdict_names_the_layer_and_what_to_do() -> None:
    settled, open_ = layer([4.0, 4.1, 4.0, 4.0, 3.9, 4.0, 4.0, 4.0]), layer([1.0] * 7 + [8.0])
    enough = Calibration({"a": settled}, samplings=16, fold_samplings=FULL).convergence()
    assert enough.enough and enough.change == pytest.approx(1 - 4 / 4.1) and enough.advice.startswith("Enough: ")
    found = Calibration({"a": settled, "b": open_}, samplings=16, fold_samplings=FULL).convergence()
    assert not found.enough and found.layer == "b" and found.changes["b"] == 0.875
    assert found.advice == "Add 8 more images: without a quarter of the samplings the range of b would be 88% smaller."
    unknown = Calibration({"a": settled}, samplings=3, fold_samplings=torch.tensor([3] + [0] * 7)).convergence()
    said = "More images are needed to tell whether they are enough: at least 5."
    assert unknown.change is None and unknown.advice == said


def test_folds_follow_from_what_was_measured() -> None:
    folds = [fold_of([("a", torch.full((4,), float(number)))]) for number in range(400)]
    assert folds == [fold_of([("a", torch.full((4,), float(number)))]) for number in range(400)]
    assert set(folds) == set(range(FOLDS)) and max(folds.count(fold) for fold in range(FOLDS)) < 90


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0, 100, width=32), min_size=8, max_size=8), st.lists(st.integers(0, 5), min_size=8, max_size=8)
)
def test_a_change_is_a_share(amax: list[float], samplings: list[int]) -> None:
    change = largest_change(torch.tensor(amax), torch.tensor(samplings))
    assert change is None or 0 <= change <= 1


def recommended(conditional: list[int], unconditional: list[int] | None = None, samplings: int = 9) -> tuple[str, ...]:
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, conditional] = 3
    schedule[1, conditional if unconditional is None else unconditional] = 3
    return coverage(1, 1, samplings, schedule).recommendations


def lacking(seen: list[int]) -> tuple[str, ...]:
    schedule = torch.zeros(2, 16, dtype=torch.int64)
    schedule[0, seen] = 3
    return coverage(1, 1, 9, schedule).lacking


def test_gaps_of_the_schedule_come_with_advice() -> None:
    everything = list(range(16))
    assert recommended(everything) == ()
    assert recommended(everything[4:])[0].startswith("Add low-noise steps: nothing seen at noise levels 0.00-0.25")
    assert recommended(everything[:8])[0].startswith("Add high-noise steps: nothing seen at noise levels 0.50-1.00")
    assert recommended([*range(5), *range(6, 16)]) == (
        "Use more or other numbers of steps: nothing seen at noise levels 0.31-0.38.",
    )
    assert recommended([])[0] == "Sample with this model: nothing seen at noise levels 0.00-1.00."
    assert recommended([0, *range(4, 8), *range(9, 12)]) == (
        "Add high-noise steps: nothing seen at noise levels 0.75-1.00 (start from an empty latent at denoise 1).",
        "Use more or other numbers of steps: nothing seen at noise levels 0.06-0.25, 0.50-0.56.",
    )


def test_an_end_of_the_schedule_that_was_never_reached_is_lacking_and_a_gap_in_it_is_not() -> None:
    everything = list(range(16))
    assert lacking(everything) == lacking([*range(5), *range(6, 16)]) == lacking([4, 8, 12, 15]) == ()
    assert [text[:14] for text in lacking(everything[6:])] == ["Add low-noise "]
    assert [text[:14] for text in lacking(everything[:10])] == ["Add high-noise"]
    assert [text[:14] for text in lacking([])] == ["Sample with th"]


@pytest.mark.parametrize(("steps", "shift"), [(4, 1.0), (4, 3.0), (6, 3.0), (8, 1.0), (8, 3.0), (12, 3.0)])
def test_few_steps_to_the_last_are_not_taken_for_an_early_stop(steps: int, shift: float) -> None:
    whole = [min(15, int(float(level) * 16)) for level in schedule(steps, shift)[:-1]]
    advice = recommended(whole)
    assert len(advice) == 1 and advice[0].startswith("Use more or other numbers of steps, unless you always sample")
    stopped = recommended([*range(8, 16)])
    assert stopped == (
        "Add low-noise steps: nothing seen at noise levels 0.00-0.50 (let the sampler run to its last step).",
    )


def test_few_samplings_and_a_pass_never_seen_come_with_advice() -> None:
    everything = list(range(16))
    assert recommended(everything, samplings=1) == ("Only a single sampling: vary prompt, seed and size.",)
    assert recommended(everything, samplings=3) == ("Only 3 samplings: vary prompt, seed and size.",)
    assert recommended(everything, []) == (
        "The unconditional pass was never seen: fine if you always sample with CFG 1.",
    )
    assert recommended([], everything) == (
        "The conditional pass was never seen: sample with the prompt connected to positive.",
    )
    assert Calibration().coverage().recommendations == ()
