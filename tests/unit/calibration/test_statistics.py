from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.calibration import Calibration, CalibrationError, LayerStatistics, Prompts, mismatches
from nvfp4_studio.calibration.histogram import BINS

NAMES = ("blocks.0.qkv", "blocks.0.proj", "blocks.1.qkv")


@st.composite
def layer_statistics(draw: st.DrawFn) -> LayerStatistics:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def counts() -> torch.Tensor:
        return torch.randint(0, 1000, (BINS,), generator=generator)

    call_amax, elements = counts(), counts()
    schedule = torch.rand(2, 16, generator=generator)
    return LayerStatistics(
        in_features=draw(st.sampled_from([0, 64])),
        out_features=32,
        calls=int(call_amax.sum()) + draw(st.integers(0, 3)),
        rows=draw(st.integers(0, 10**6)),
        elements=int(elements.sum()),
        nonfinite=draw(st.integers(0, 2)),
        amax=float(schedule.max()),
        call_amax=call_amax,
        block_amax=counts(),
        element_magnitude=elements,
        schedule_amax=schedule,
    )


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    seen = draw(st.sets(st.sampled_from(NAMES)))
    reasons = st.sampled_from(["never ran", "an expert bank"])
    return Calibration(
        layers={name: draw(layer_statistics()) for name in sorted(seen)},
        unobserved={name: draw(reasons) for name in NAMES if name not in seen},
        samplings=draw(st.integers(0, 5)),
        images=draw(st.integers(0, 50)),
        steps=draw(st.integers(0, 500)),
        schedule=torch.tensor(draw(st.lists(st.integers(0, 9), min_size=32, max_size=32))).reshape(2, 16),
        adaptations=draw(st.dictionaries(st.sampled_from(["none", "3 weights patched"]), st.integers(1, 5))),
        prompts=Prompts(tuple(sorted(draw(st.sets(st.integers(0, 99))))), draw(st.integers(0, 99))),
    )


@settings(deadline=None, max_examples=50)
@given(calibrations(), calibrations(), calibrations())
def test_merging_is_associative_and_commutative(a: Calibration, b: Calibration, c: Calibration) -> None:
    assert a.merged(b).same_as(b.merged(a))
    assert a.merged(b).merged(c).same_as(a.merged(b.merged(c)))


@settings(deadline=None, max_examples=20)
@given(calibrations())
def test_merging_with_nothing_changes_nothing(a: Calibration) -> None:
    assert a.merged(Calibration()).same_as(a)
    assert Calibration().merged(a).same_as(a)


def make(name: str = "blocks.0.qkv", **changes: object) -> Calibration:
    histogram = torch.zeros(BINS, dtype=torch.int64)
    layer = LayerStatistics(64, 32, 1, 4, 0, 0, 8.0, histogram, histogram, histogram, torch.zeros(2, 16))
    return Calibration(layers={name: dataclasses.replace(layer, **changes)})  # type: ignore[arg-type]


def test_a_layer_seen_in_either_is_observed() -> None:
    never = Calibration(unobserved={"blocks.0.qkv": "never ran", "head": "never ran"})
    assert never.merged(make()).unobserved == {"head": "never ran"}


def test_different_models_do_not_merge() -> None:
    with pytest.raises(CalibrationError, match=r"different models: layer blocks.0.qkv: 64 and 128 input channels"):
        make().merged(make(in_features=128))


def test_merging_leaves_both_as_they_were() -> None:
    a, b = make(calls=1), make(calls=2)
    a.merged(b)
    assert a.layers["blocks.0.qkv"].calls == 1 and b.layers["blocks.0.qkv"].calls == 2


def test_the_summary_is_one_line_with_the_largest_amax() -> None:
    both = Calibration(images=18, steps=288).merged(make(amax=2.0)).merged(make("blocks.1.txt_mlp.2", amax=3136.0))
    assert both.summary() == "18 images, 288 steps, 2 layers, largest amax 3136 in blocks.1.txt_mlp.2"
    assert Calibration(images=1, steps=1).summary() == "1 image, 1 step, 0 layers"


def test_layers_with_nan_are_named() -> None:
    bad = make(nonfinite=3).merged(make("head", nonfinite=9)).merged(make("fine"))
    assert bad.nonfinite_layers() == {"head": 9, "blocks.0.qkv": 3}
    assert bad.summary().endswith("NaN or infinite values in 2 layers (most in head)")


def test_coverage_tells_the_parts_of_the_schedule_never_seen() -> None:
    schedule = torch.ones(2, 16, dtype=torch.int64)
    schedule[:, [0, 1, 8]] = 0
    covered = dataclasses.replace(make(), schedule=schedule, unobserved={"head": "never ran"}).coverage()
    assert (covered.observed, covered.total) == (1, 2)
    assert covered.schedule_seen == 13 / 16
    assert covered.missing_bins == (0, 1, 8)
    assert covered.missing_ranges() == "0.00-0.12, 0.50-0.56"
    assert make().coverage().missing_ranges() == "0.00-1.00"


def test_mismatches_name_absent_layers_and_other_shapes() -> None:
    both = make().merged(make("blocks.9.qkv"))
    assert mismatches(both, {"blocks.0.qkv": (32, 64), "blocks.9.qkv": (32, 64), "extra": (1, 1)}) == []
    assert mismatches(both, {"blocks.0.qkv": (32, 48)}) == [
        "blocks.0.qkv was calibrated as 32 x 64, is 32 x 48",
        "blocks.9.qkv is not in the checkpoint",
    ]
    assert mismatches(make(in_features=0, out_features=0), {"blocks.0.qkv": (7, 9)}) == []
