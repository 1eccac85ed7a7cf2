from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from nvfp4_studio.calibration import (
    Calibration,
    CalibrationError,
    Collector,
    Prompts,
    collector,
    linear_layers,
    observe,
)
from nvfp4_studio.calibration.fingerprint import UNKNOWN

QKV = ("to_q", "to_k", "to_v")


def hooks(root: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in root.modules())


@pytest.fixture
def observations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the inputs that were really measured."""
    measured: list[tuple[int, ...]] = []

    def counting(values: torch.Tensor, **how: object) -> object:
        measured.append(tuple(values.shape))
        return observe(values, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(collector, "observe", counting)
    return measured


def test_layers_calls_rows_and_the_layer_that_never_ran(small_model: nn.Module) -> None:
    made = Collector(small_model)
    for level in (1.0, 0.5):
        with made.observing(level), torch.inference_mode():
            small_model(torch.randn(2, 5, 32))
    found = made.finish(images=2)
    assert list(found.layers) == [f"blocks.{index}.{name}" for index in (0, 1) for name in sorted((*QKV, "to_out"))]
    layer = found.layers["blocks.1.to_q"]
    assert (layer.calls, layer.rows, layer.elements) == (2, 20, 2 * 5 * 32)  # every other of ten rows
    assert (layer.in_features, layer.out_features) == (32, 32)
    assert found.unobserved == {"unused": collector.NEVER_RAN}
    assert (found.samplings, found.images, found.steps) == (1, 2, 2)
    assert found.schedule.tolist() == [[0] * 8 + [1] + [0] * 6 + [1], [0] * 16]
    assert layer.schedule_amax.nonzero().tolist() == [[0, 8], [0, 15]]


@pytest.mark.parametrize("inference", [True, False])
def test_q_k_and_v_are_measured_once(
    small_model: nn.Module, observations: list[tuple[int, ...]], inference: bool
) -> None:
    made = Collector(small_model)
    with torch.inference_mode(inference), made.observing(0.3):
        small_model(torch.randn(2, 5, 32))
    assert len(observations) == 4  # per block: the input of q, k, v, and that of the projection
    found = {name: dataclasses.replace(layer, weight_samples=UNKNOWN) for name, layer in made.finish().layers.items()}
    assert found["blocks.0.to_q"].same_as(found["blocks.0.to_k"])
    assert found["blocks.0.to_q"].same_as(found["blocks.0.to_v"])


def test_a_shared_input_counts_fully_for_each_layer(small_model: nn.Module) -> None:
    x = torch.randn(2, 5, 32)
    made = Collector(small_model)
    with made.observing(0.0):
        small_model(x)
    assert made.finish().layers["blocks.0.to_v"].rows == 10
    assert made.finish().layers["blocks.0.to_v"].amax == float(x.abs().max())


@pytest.mark.parametrize("inference", [True, False])
def test_an_input_written_to_in_between_is_measured_again(inference: bool) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(16, 16))
            self.second = nn.Sequential(nn.Linear(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            x.mul_(100)
            return y + self.second(x)

    model = InPlace()
    made = Collector(model)
    with torch.inference_mode(inference), torch.no_grad(), made.observing(0.0):
        model(torch.ones(2, 16))
    found = made.finish().layers
    assert found["first.0"].amax == 1.0
    assert found["second.0"].amax == 100.0


def test_an_outside_input_is_shared_between_blocks_when_its_version_is_known(
    observations: list[tuple[int, ...]],
) -> None:
    model = nn.ModuleList([nn.Sequential(nn.Linear(16, 16)) for _ in range(3)])
    context = torch.ones(2, 16)
    made = Collector(model)
    with made.observing(0.0):
        for block in model:
            block(context)
    assert len(observations) == 1


def test_a_second_evaluation_measures_the_same_tensor_again(
    small_model: nn.Module, observations: list[tuple[int, ...]]
) -> None:
    x = torch.randn(1, 4, 32)
    made = Collector(small_model)
    for _ in range(2):
        with made.observing(0.0):
            small_model(x)
    assert len(observations) == 8
    assert made.finish().layers["blocks.0.to_q"].calls == 2


def test_an_input_passed_by_keyword_is_seen() -> None:
    model = nn.Sequential(nn.Linear(16, 4))
    made = Collector(model)
    with made.observing(0.5):
        model[0](input=torch.full((3, 16), 2.0))
    assert made.finish().layers["0"].amax == 2.0


def test_the_input_that_counts_is_the_one_after_the_hooks_of_others() -> None:
    model = nn.Sequential(nn.Linear(16, 4))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    made = Collector(model)
    with made.observing(0.5):
        model(torch.ones(1, 16))
    assert made.finish().layers["0"].amax == 3.0
    assert hooks(model) == 1


def test_the_output_is_bit_identical_and_no_hook_remains(small_model: nn.Module) -> None:
    x = torch.randn(2, 5, 32)
    with torch.inference_mode():
        plain = small_model(x)
        with Collector(small_model).observing(0.9):
            assert hooks(small_model) == 9
            observed = small_model(x)
    assert torch.equal(plain, observed)
    assert hooks(small_model) == 0


class Interrupt(BaseException):
    """Like ComfyUI's interrupt, no Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, Interrupt])
def test_no_hook_remains_after_an_error_in_the_model(small_model: nn.Module, kind: type[BaseException]) -> None:
    made = Collector(small_model)
    with pytest.raises(kind), made.observing(0.5):
        small_model(torch.randn(1, 2, 32))
        raise kind
    assert hooks(small_model) == 0
    with made.observing(0.5):
        small_model(torch.randn(1, 2, 32))
    assert made.finish().layers["blocks.0.to_q"].calls == 2


def test_a_failing_removal_does_not_keep_the_other_hooks(
    small_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nn.Linear.register_forward_pre_hook
    made = Collector(small_model)
    broken = small_model.get_submodule("blocks.0.to_v")

    def register(self: nn.Module, *args: object, **kwargs: object) -> object:
        handle = real(self, *args, **kwargs)  # type: ignore[arg-type]
        if self is broken:
            genuine = handle.remove

            def failing() -> None:
                genuine()
                raise RuntimeError("removal failed")

            handle.remove = failing  # type: ignore[method-assign]
        return handle

    monkeypatch.setattr(nn.Linear, "register_forward_pre_hook", register)
    with pytest.raises(RuntimeError, match="removal failed"), made.observing(0.5):
        pass
    assert hooks(small_model) == 0


def test_a_failing_registration_leaves_no_hook(small_model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    real = nn.Linear.register_forward_pre_hook
    made = Collector(small_model)

    def register(self: nn.Module, *args: object, **kwargs: object) -> object:
        if self is small_model.unused:
            raise RuntimeError("no room")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(nn.Linear, "register_forward_pre_hook", register)
    with pytest.raises(RuntimeError, match="no room"), made.observing(0.5):
        pass
    assert hooks(small_model) == 0
    assert made.finish().steps == 0


def test_nested_use_in_one_thread_is_refused(small_model: nn.Module) -> None:
    made = Collector(small_model)
    with made.observing(0.5):
        with pytest.raises(CalibrationError, match="already observing"), made.observing(0.5):
            pass
        assert hooks(small_model) == 9
    assert hooks(small_model) == 0


def test_two_collectors_on_one_model_count_independently(small_model: nn.Module) -> None:
    one, two = Collector(small_model), Collector(small_model)
    with one.observing(0.5), two.observing(0.5):
        small_model(torch.randn(1, 2, 32))
    assert one.finish().same_as(two.finish())


def test_threads_on_one_model_count_their_own_calls(small_model: nn.Module) -> None:
    made = Collector(small_model)
    barrier = threading.Barrier(2)
    errors: list[BaseException] = []

    def sample(level: float, scale: float) -> None:
        try:
            for _ in range(5):
                barrier.wait(timeout=30)
                with torch.inference_mode(), made.observing(level):
                    barrier.wait(timeout=30)
                    small_model(torch.full((2, 3, 32), scale))
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=sample, args=arguments) for arguments in ((0.99, 4.0), (0.0, 1.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = made.finish()
    layer = found.layers["blocks.0.to_q"]
    assert layer.calls == 10 and layer.elements == 10 * 192
    assert layer.schedule_amax[0].tolist() == [1.0] + [0.0] * 14 + [4.0]
    assert found.schedule[0].tolist() == [5] + [0] * 14 + [5]
    assert hooks(small_model) == 0


def test_a_copy_of_the_model_may_be_the_one_that_runs(small_model: nn.Module) -> None:
    import copy

    clone = copy.deepcopy(small_model)
    made = Collector(small_model)
    with made.observing(0.5, root=clone):
        clone(torch.randn(1, 2, 32))
        small_model(torch.randn(1, 2, 32))
    assert made.finish().layers["blocks.0.to_q"].calls == 1


def test_another_model_is_refused(small_model: nn.Module) -> None:
    made = Collector(small_model)
    other = nn.ModuleDict({"unused": nn.Linear(4, 4)})
    with pytest.raises(CalibrationError, match=r"unused had shape \(32, 8\) and now has \(4, 4\)"):  # noqa: SIM117
        with made.observing(0.5, root=other):
            pass


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        (0.0, 0),
        (1.0, 15),
        (7, 15),
        (-1.0, 0),
        (0.4999, 7),
        (0.5, 8),
        (torch.tensor(0.5), 8),
        (torch.tensor([0.1, 0.93]), 14),
        (torch.tensor([[0.25]], dtype=torch.bfloat16), 4),
        (float("nan"), 0),
        (torch.tensor([]), 0),
    ],
)
def test_the_noise_level_chooses_one_of_sixteen_bins(level: float | torch.Tensor, wanted: int) -> None:
    model = nn.Sequential(nn.Linear(16, 4))
    made = Collector(model)
    with torch.inference_mode(), made.observing(level):
        model(torch.ones(1, 16))
    found = made.finish()
    assert found.schedule.nonzero().tolist() == [[0, wanted]]
    assert found.layers["0"].schedule_amax.nonzero().tolist() == [[0, wanted]]


class Quantized(torch.Tensor):
    """Stands for another tensor, as ComfyUI's QuantizedTensor does."""

    def dequantize(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor) * 10


def test_a_quantized_input_is_measured_as_what_it_stands_for() -> None:
    model = nn.Sequential(nn.Linear(16, 4))
    made = Collector(model)
    with made.observing(0.5):
        model(torch.ones(1, 16).as_subclass(Quantized))
    assert made.finish().layers["0"].amax == 10.0


def test_a_layer_given_nothing_measurable_is_listed(small_model: nn.Module) -> None:
    made = Collector(small_model)
    with made.observing(0.5):
        small_model.unused(torch.zeros(0, 32))
    assert made.finish().unobserved["unused"] == collector.NO_ROWS
    with made.observing(0.5), pytest.raises(RuntimeError):
        small_model.unused(torch.zeros(1, 32, dtype=torch.int64))
    assert made.finish().unobserved["unused"] == collector.UNMEASURABLE


def test_a_sampling_without_evaluations_is_none(small_model: nn.Module) -> None:
    found = Collector(small_model).finish()
    assert (found.samplings, found.steps, found.layers) == (0, 0, {})
    assert len(found.unobserved) == 9


def test_memory_does_not_grow_with_the_number_of_runs(small_model: nn.Module) -> None:
    made = Collector(small_model)

    def held() -> int:
        gc.collect()
        return sum(found.numel() for found in gc.get_objects() if type(found) is torch.Tensor)

    sizes = []
    for _ in range(3):
        for _ in range(20):
            with made.observing(0.5):
                small_model(torch.randn(1, 2, 32))
        made.finish()
        sizes.append(held())
    assert len(set(sizes)) == 1


def test_what_is_exact_does_not_depend_on_how_evaluations_are_split(
    sampled: Callable[[list[tuple[int, float]]], Calibration],
) -> None:
    first, second = [(1, 0.9), (2, 0.4)], [(3, 0.05)]
    merged, whole = sampled(first).merged(sampled(second)), sampled(first + second)
    assert merged.layers.keys() == whole.layers.keys()
    for name, layer in merged.layers.items():
        other = whole.layers[name]
        assert (layer.calls, layer.rows, layer.amax) == (other.calls, other.rows, other.amax)
        assert torch.equal(layer.call_amax, other.call_amax) and torch.equal(layer.schedule_amax, other.schedule_amax)
    assert torch.equal(merged.schedule, whole.schedule) and merged.steps == whole.steps
    assert (merged.samplings, whole.samplings) == (2, 1)


def test_each_pass_of_a_batch_has_its_own_amax(small_model: nn.Module) -> None:
    x = torch.ones(4, 3, 32)
    x[2:] = 5.0  # the second half is the unconditional pass
    made = Collector(small_model)
    with torch.inference_mode(), made.observing(1.0, passes=(0, 1)):
        small_model(x)
    found = made.finish()
    assert found.layers["blocks.0.to_q"].schedule_amax[:, 15].tolist() == [1.0, 5.0]
    assert found.schedule[:, 15].tolist() == [1, 1] and found.steps == 1


@pytest.mark.parametrize(
    ("passes", "wanted"),
    [((1,), [0.0, 5.0]), ((0,), [5.0, 0.0]), ((0, 1, 1), [5.0, 5.0]), ((1, 0, 0, 1), [1.0, 5.0]), ((), [5.0, 0.0])],
)
def test_passes_name_the_parts_of_the_batch_or_all_of_it(passes: tuple[int, ...], wanted: list[float]) -> None:
    """Three passes do not divide a batch of four: then the call counts for every pass that is named."""
    model = nn.Sequential(nn.Linear(16, 4))
    x = torch.ones(4, 2, 16)
    x[0] = -5.0
    made = Collector(model)
    with made.observing(0.0, passes=passes):
        model(x)
    assert made.finish().layers["0"].schedule_amax[:, 0].tolist() == wanted


def test_nan_in_one_pass_does_not_hide_the_other() -> None:
    model = nn.Sequential(nn.Linear(16, 4))
    x = torch.ones(2, 3, 16)
    x[0, 1, 4] = float("nan")
    x[1] = 2.0
    made = Collector(model, "curvature")
    with made.observing(0.0, passes=(0, 1)):
        model(x)
    layer = made.finish().layers["0"]
    assert layer.schedule_amax[:, 0].tolist() == [1.0, 2.0]
    assert (layer.rows, layer.nonfinite, layer.channels) == (6, 1, None)


def test_layers_that_share_an_input_only_sometimes_count_every_call(small_model: nn.Module) -> None:
    attention = small_model.get_submodule("blocks.0")
    made = Collector(small_model, "curvature")
    with torch.inference_mode():
        for seed in range(3):
            x = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(seed))
            with made.observing(0.5):
                attention.to_q(x)
                attention.to_k(x if seed else x.clone())
                if seed == 2:
                    attention.to_q(x)
    found = made.finish().layers
    q, k = found["blocks.0.to_q"], found["blocks.0.to_k"]
    assert (q.calls, k.calls, q.rows, k.rows) == (4, 3, 320, 240)
    assert q.channels is not None and k.channels is not None and (q.channels.rows, k.channels.rows) == (320, 240)
    assert q.curvature is not None and q.curvature.rows == 320


def test_many_different_sets_of_layers_end_as_one_sum_for_each_layer() -> None:
    model = nn.ModuleList([nn.Linear(16, 4) for _ in range(8)])
    made = Collector(model)
    for number in range(1, 256):
        x = torch.ones(2, 16)
        with made.observing(0.5):
            for index, layer in enumerate(model):
                if number >> index & 1:
                    layer(x)
    found = made.finish()
    assert {layer.calls for layer in found.layers.values()} == {128}
    assert len(made._sums[torch.device("cpu")]._groups) <= 4 * 8 + 8


def test_the_fingerprint_is_of_the_weights_or_of_what_is_given(small_model: nn.Module) -> None:
    def samples(made: Collector) -> torch.Tensor:
        with made.observing(0.5):
            small_model(torch.randn(1, 2, 32))
        return made.finish().layers["blocks.0.to_q"].weight_samples

    own = samples(Collector(small_model))
    assert own.shape == (16,) and set(own.tolist()) <= set(
        small_model.get_submodule("blocks.0.to_q").weight.flatten().tolist()
    )
    assert samples(Collector(small_model, samples={"blocks.0.to_q": torch.ones(16)})).tolist() == [1.0] * 16
    assert samples(Collector(small_model, samples={})).numel() == 0


def test_what_was_patched_is_recorded(small_model: nn.Module) -> None:
    made = Collector(small_model)
    assert made.finish(adaptation="8 weights patched (strength 1)").adaptations == {}
    with made.observing(0.5):
        small_model(torch.randn(1, 2, 32))
    assert made.finish().adaptations == {"none": 1}
    found = made.finish(adaptation="8 weights patched (strength 1)")
    assert found.adapted() == {"8 weights patched (strength 1)": 1}
    assert found.summary().endswith("1 of 1 sampling with patched weights")


def test_the_prompt_of_a_sampling_counts_once_it_ran(small_model: nn.Module) -> None:
    made = Collector(small_model)
    assert made.finish(prompt=7).prompts == Prompts()
    with made.observing(0.5):
        small_model(torch.randn(1, 2, 32))
    assert made.finish().prompts == Prompts() and made.finish(prompt=7).prompts == Prompts((7,), 1)


def test_an_unknown_level_of_detail_is_refused(small_model: nn.Module) -> None:
    with pytest.raises(CalibrationError, match="'all'; choose one of scales, channels, curvature"):
        Collector(small_model, "all")


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 16, 32


class Linear(nn.Module):
    """Named like ComfyUI's mixed-precision layer, and no subclass of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 16, 32


def test_selection_lists_what_cannot_be_observed_with_the_reason() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 4),
            "mixed": Linear(),
            "experts": Experts(),
            "attn": nn.MultiheadAttention(16, 2),
            "lazy": nn.LazyLinear(4),
            "norm": nn.LayerNorm(8),
            "conv": nn.Conv2d(4, 4, 1),
        }
    )
    layers, left_out = linear_layers(model)
    assert set(layers) == {"plain", "mixed"}
    assert set(left_out) == {"experts", "attn.out_proj", "lazy"}
    assert left_out["experts"] == "Experts multiplies without calling a Linear layer"
    assert "MultiheadAttention (attn)" in left_out["attn.out_proj"]


def test_compiled_models_keep_their_names() -> None:
    model = nn.ModuleDict({"_orig_mod": nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 4)])})})
    assert list(linear_layers(model)[0]) == ["blocks.0"]
