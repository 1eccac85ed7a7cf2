from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.calibration import LayerStatistics, counting, observe, observers, sums
from nvfp4_studio.calibration.histogram import BINS, bin_index
from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver

CPU = torch.device("cpu")
FULL_NOISE = torch.arange(16) == 15


def statistics_of(*inputs: torch.Tensor) -> LayerStatistics:
    observer = LayerObserver(CPU)
    for values in inputs:
        seen = observe(values)
        assert seen is not None
        observer.observe(seen, FULL_NOISE)
    return observer.finish(inputs[0].shape[-1], 8)


def naive_blocks(values: torch.Tensor) -> torch.Tensor:
    rows = values.double().abs().reshape(-1, values.shape[-1])
    return torch.cat([part.amax(-1) for part in rows.split(16, dim=1)])


def histogram_of(values: torch.Tensor) -> torch.Tensor:
    return torch.bincount(bin_index(values.float()).flatten(), minlength=BINS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(16,), (5, 32), (2, 3, 40), (3, 7), (1, 1, 2, 17)])
def test_everything_agrees_with_a_plain_computation(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = [(torch.randn(shape, generator=generator) * scale).to(dtype) for scale in (1.0, 20.0)]
    found = statistics_of(*inputs)
    exact = [values.double() for values in inputs]
    assert found.amax == pytest.approx(max(float(values.abs().max()) for values in exact), rel=1e-7)
    assert torch.equal(found.call_amax, histogram_of(torch.stack([values.abs().max() for values in exact])))
    assert torch.equal(found.block_amax, histogram_of(torch.cat([naive_blocks(values) for values in exact])))
    assert torch.equal(found.element_magnitude, histogram_of(torch.cat([values.flatten() for values in exact])))
    assert found.calls == 2
    assert found.rows == 2 * inputs[0].numel() // shape[-1]
    assert found.elements == 2 * inputs[0].numel()
    assert found.nonfinite == 0
    assert found.schedule_amax.tolist() == [[0.0] * 15 + [found.amax], [0.0] * 16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_with_nan_or_infinity_are_counted_and_left_out(dtype: torch.dtype) -> None:
    values = torch.ones(4, 32, dtype=dtype)
    values[0, 3] = float("nan")
    values[0, 20] = 900.0
    values[1, :16] = float("-inf")
    values[2, 16] = -7.0
    found = statistics_of(values)
    assert found.nonfinite == 2
    assert found.elements == 64
    assert found.amax == 7.0
    assert int(found.element_magnitude.sum()) == 64
    assert torch.equal(found.block_amax, histogram_of(torch.tensor([1.0, 1.0, 1.0, 7.0])))
    assert torch.equal(found.call_amax, histogram_of(torch.tensor([7.0])))


def test_a_call_without_any_finite_row_adds_to_the_count_of_calls_only() -> None:
    found = statistics_of(torch.full((2, 16), float("nan")))
    assert (found.calls, found.nonfinite, found.elements, found.amax) == (1, 2, 0, 0.0)
    assert int(found.call_amax.sum()) == int(found.block_amax.sum()) == int(found.element_magnitude.sum()) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_amax_is_exact_and_the_histograms_are_of_one_row_in_256(dtype: torch.dtype) -> None:
    values = torch.randn(1280, 32, generator=torch.Generator().manual_seed(8)).to(dtype)
    for row in (0, 1, 333, 1279):
        spiked = values.clone()
        spiked[row, 7] = -1234.0
        found = statistics_of(spiked)
        assert found.amax == float(spiked.float().abs().max())
        assert (found.rows, found.elements) == (1280, 5 * 32)
        assert torch.equal(found.element_magnitude, histogram_of(spiked[::256]))


def test_the_sampled_rows_move_on_from_evaluation_to_evaluation() -> None:
    values = torch.arange(1280.0)[:, None].expand(1280, 16)
    firsts = [observe(values, turn=turn) for turn in range(256)]
    assert sorted(int(seen.sample[0, 0]) for seen in firsts if seen is not None) == list(range(256))


def test_what_cannot_be_measured_is_refused() -> None:
    assert observe(torch.zeros(0, 16)) is None
    assert observe(torch.zeros(4, 0)) is None
    assert observe(torch.tensor(3.0)) is None
    assert observe(torch.ones(2, 16, dtype=torch.int64)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_strided_and_broadcast_inputs(dtype: torch.dtype) -> None:
    base = torch.randn(4, 6, 48, generator=torch.Generator().manual_seed(4)).to(dtype)
    for values in (base.transpose(0, 1), base[:, ::2, 3:41], base[:1].expand(4, 6, 48)):
        assert statistics_of(values).same_as(statistics_of(values.contiguous().clone()))


def test_the_input_is_not_changed() -> None:
    values = torch.randn(4, 40)
    before = values.clone()
    statistics_of(values)
    assert torch.equal(values, before)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(37, 40, generator=torch.Generator().manual_seed(5))
    values[5, 5] = float("nan")
    whole = statistics_of(values)
    for chunk in (1, 41, 400):
        monkeypatch.setattr(observers, "_CHUNK_CPU", chunk)
        assert statistics_of(values).same_as(whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 64), (9, 40), (7, 13), (1, 1)])
def test_the_way_of_counting_on_other_devices_gives_the_same(
    dtype: torch.dtype, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(6)).to(dtype)
    values[shape[0] // 2, shape[1] // 3] = float("inf")
    values[shape[0] // 3, shape[1] // 2 :] = float("nan")
    wanted = statistics_of(values)
    monkeypatch.setattr(sums, "histogram", counting.histogram_by_atomics)
    assert statistics_of(values).same_as(wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_counts_the_same_without_waiting() -> None:
    values = torch.randn(300, 4096, generator=torch.Generator().manual_seed(7)).bfloat16()
    values[5, 5] = float("nan")
    device = torch.device("cuda")
    observer = LayerObserver(device)
    on_gpu, here = values.to(device), FULL_NOISE.to(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = observe(on_gpu)
        assert seen is not None
        observer.observe(seen, here)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert observer.finish(4096, 8).same_as(statistics_of(values))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.data())
def test_split_runs_merge_to_exactly_one_run(seeds: list[int], data: st.DataObject) -> None:
    inputs = [
        torch.randn(1 + seed % 5, 40, generator=torch.Generator().manual_seed(seed)).bfloat16() * (1 + seed % 11)
        for seed in seeds
    ]
    whole = statistics_of(*inputs)
    cut = data.draw(st.integers(0, len(inputs)))
    order = data.draw(st.permutations(range(len(inputs))))
    parts = [[inputs[index] for index in order[:cut]], [inputs[index] for index in order[cut:]]]
    found = [statistics_of(*part) for part in parts if part]
    merged = found[0] if len(found) == 1 else found[0].merged(found[1])
    assert merged.same_as(whole)


@pytest.mark.parametrize("made_in_inference_mode", [True, False])
def test_accumulators_change_inside_and_outside_of_inference_mode(made_in_inference_mode: bool) -> None:
    values = torch.ones(2, 16)
    with torch.inference_mode(made_in_inference_mode):
        observer = LayerObserver(CPU)
        inside = observe(values)
        assert inside is not None
        observer.observe(inside, FULL_NOISE)
    outside = observe(values)
    assert outside is not None
    observer.observe(outside, FULL_NOISE)
    observer.observe(inside, FULL_NOISE)
    with torch.inference_mode(not made_in_inference_mode):
        observer.observe(outside, FULL_NOISE)
        found = observer.finish(16, 8)
    assert found.calls == 4 and found.elements == 4 * 32
    found.call_amax.add_(1)
    found.schedule_amax.add_(1)


def test_finish_may_be_followed_by_more() -> None:
    observer = LayerObserver(CPU)
    seen = observe(torch.ones(2, 16))
    assert seen is not None
    observer.observe(seen, FULL_NOISE)
    first = observer.finish(16, 8)
    observer.observe(seen, FULL_NOISE)
    assert first.calls == 1 and int(first.call_amax.sum()) == 1
    assert observer.finish(16, 8).same_as(first.merged(first))


def test_nothing_of_the_graph_is_kept() -> None:
    values = torch.ones(2, 16, requires_grad=True)
    seen = observe(values * 2)
    assert seen is not None and not seen.sample.requires_grad
