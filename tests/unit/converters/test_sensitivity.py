"""Sensitivity: outputs against float64, choices, weights by noise, going on after a cancel, influence, hostile files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Calibration, Collector
from nvfp4_studio.converters import (
    Cancelled,
    ConversionError,
    PlanError,
    Source,
    convert,
    make_plan,
    open_source,
    verify_outputs,
)
from nvfp4_studio.converters.budget import parse_budget, plan_budget
from nvfp4_studio.converters.errors import SensitivityError
from nvfp4_studio.converters.formats import Encoding, Weight, nvfp4
from nvfp4_studio.converters.kernels import load_table
from nvfp4_studio.converters.options import Options
from nvfp4_studio.converters.sensitivity import (
    Choice,
    Prober,
    Probes,
    Sensitivity,
    beside,
    choices_of,
    discard_unfinished,
    from_json,
    influence_summary,
    keep_beside,
    load,
    load_influence,
    load_probes,
    measure_and_save,
    measure_sensitivity,
    merged_influence,
    one_layer,
    save,
    save_influence,
    source_fingerprint,
)
from nvfp4_studio.converters.sensitivity.progress_file import ProgressFile
from nvfp4_studio.converters.sensitivity.weighting import row_weights
from nvfp4_studio.converters.sweep import Asked, simulating, sweep
from nvfp4_studio.converters.verify_outputs import output_fidelity
from nvfp4_studio.converters.writing.journal import lock, open_private

PROJ = "double_blocks.0.img_attn.proj"


class Layers(torch.nn.Module):
    """The Linear layers of a checkpoint under their names, each given inputs of its own."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: dict[str, torch.nn.Linear] = {}
        with safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if key.endswith(".weight"):
                    self._add(key.removesuffix(".weight").split("."), file.get_tensor(key).float())

    def _add(self, name: list[str], weight: torch.Tensor) -> None:
        parent: torch.nn.Module = self
        for part in name[:-1]:
            if part not in dict(parent.named_children()):
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        parent.add_module(name[-1], layer)
        self.found[".".join(name)] = layer

    def forward(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for layer in self.found.values():
            values = torch.randn(256, layer.in_features, generator=generator)
            values[:, 3] *= 12
            layer(values.to(torch.bfloat16).float())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guarded layer and two blocks of two layers."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"img_in": (128, 64)}
    for block in range(2):
        shapes |= {
            f"double_blocks.{block}.img_attn.proj": (128, 128),
            f"double_blocks.{block}.img_mlp.0": (256, 128),
        }
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("sensitivity") / "source.safetensors"
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, path)
    return path


@pytest.fixture(scope="module")
def calibration(source: Path) -> Calibration:
    return calibrated(source)


def calibrated(path: Path, detail: str = "curvature") -> Calibration:
    model = Layers(path)
    collector = Collector(model, detail=detail)
    for step, noise in enumerate((0.99, 0.97, 0.5, 0.1) * 5):
        with collector.observing(noise):
            model(step)
    return collector.finish(images=1)


def measured(path: Path, calibration: Calibration, *choices: Choice, **settings: Any) -> Sensitivity:
    with open_source(path) as opened:
        return measure_sensitivity(opened, calibration, choices or None, **settings)


def test_noise_and_signal_are_those_of_the_converted_file(
    source: Path, calibration: Calibration, tmp_path: Path
) -> None:
    """What is predicted for NVFP4 is what the written file computes, summed in float64 by plain means."""
    found = measured(source, calibration, Choice("nvfp4", "gptq"))
    layer = found.layer(PROJ)
    assert (
        layer is not None
        and layer.rows == 64
        and layer.input_rows == 256
        and layer.kind == "double_blocks.N.img_attn.proj"
    )
    assert layer.block == "double_blocks.0"
    target = tmp_path / "t.safetensors"
    report = convert(
        source, target, Options(recipe="weight-only", rounding="gptq"), calibration=calibration, device="cpu"
    )
    decision = next(layer for layer in report.plan.layers if layer.module == PROJ)
    from nvfp4_studio.converters.layers import recognise
    from nvfp4_studio.converters.stored import decoder

    reservoir = calibration.layers[PROJ].reservoir
    assert reservoir is not None and decision.input_scale is not None
    rows = reservoir.values()
    with open_source(target) as converted, open_source(source) as original:
        weight = decoder(converted, recognise(converted).layers[PROJ], layer.shape)(0, layer.shape[0]).double()
        exact = original.read(f"{PROJ}.weight").double()
    wanted = rows.double() @ exact.T
    got = nvfp4.quantized_input(rows, decision.input_scale).double() @ weight.T
    outcome = layer.outcome(Choice("nvfp4", "gptq"))
    assert outcome is not None
    assert layer.signal == pytest.approx(float(wanted.square().mean()), rel=1e-5)
    assert outcome.noise == pytest.approx(float((got - wanted).square().mean()), rel=1e-4)
    assert outcome.bytes == decision.bytes_after
    kept = layer.outcome(Choice("keep"))
    assert kept is not None and kept.noise == 0 and outcome.bytes < 0.3 * kept.bytes


def test_every_format_has_its_place(source: Path, calibration: Calibration) -> None:
    found = measured(source, calibration, *choices_of(("all",), ("all",)))
    layer = found.layer("double_blocks.1.img_mlp.0")
    assert layer is not None
    best = {
        policy: layer.of_policy(policy)[0].noise for policy in ("nvfp4", "float8_e4m3fn", "mxfp8", "int8_tensorwise")
    }
    assert best["nvfp4"] > max(best["float8_e4m3fn"], best["mxfp8"]) > best["int8_tensorwise"] > 0
    roundings = {outcome.choice.rounding: outcome.noise for outcome in layer.of_policy("nvfp4")}
    assert roundings["gptq"] < roundings["weighted"] < roundings["nearest"]
    guarded = found.layer("img_in")
    assert guarded is not None and not guarded.of_policy("nvfp4") and guarded.of_policy("float8_e4m3fn")


def test_auto_is_the_layers_own_method_and_not_told_twice(source: Path, calibration: Calibration) -> None:
    layer = measured(source, calibration, *choices_of(("nvfp4",), ("auto", "gptq", "nearest"))).layer(PROJ)
    assert layer is not None
    assert [outcome.choice.label for outcome in layer.outcomes] == ["keep", "nvfp4/gptq", "nvfp4/nearest"]


def test_no_rounding_of_a_layer_is_computed_twice(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, encode = [], nvfp4.encode

    def counting(weight: Weight, encoding: Encoding) -> dict[str, torch.Tensor]:
        encoded.append(weight.name)
        return encode(weight, encoding)

    monkeypatch.setattr(nvfp4, "encode", counting)
    found = measured(source, calibration, *choices_of(("nvfp4",), ("auto", "gptq", "nearest", "weighted")))
    changed = [layer.module for layer in found.layers if not layer.fixed]
    assert sorted(encoded) == sorted(3 * changed)


def test_channels_that_stick_out_are_better_off_with_a_pre_quant_scale(source: Path, calibration: Calibration) -> None:
    choices = choices_of(("nvfp4",), ("nearest",), (0.25, 0.5), gain=True)
    layer = measured(source, calibration, *choices).layer(PROJ)
    assert layer is not None
    noise = {outcome.choice.label: outcome.noise for outcome in layer.of_policy("nvfp4")}
    assert noise.keys() == {f"nvfp4/nearest{p}{g}" for p in ("", "+awq0.25", "+awq0.5") for g in ("", "+gain")}
    assert noise["nvfp4/nearest+awq0.5"] < 0.9 * noise["nvfp4/nearest"]
    plain, smoothed = (layer.outcome(Choice("nvfp4", "nearest", exponent)) for exponent in (None, 0.5))
    assert plain is not None and smoothed is not None and smoothed.bytes == plain.bytes + 2 * layer.shape[1]


def test_a_scaled_fp8_source_is_kept_with_the_error_of_its_input(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint("scaled")
    layer = measured(path, calibrated_like(path), Choice("float8_e4m3fn")).layer(PROJ)
    assert layer is not None
    assert 0 < layer.outcomes[0].noise < 1e-2 * layer.signal


def test_fp8_with_a_scale_a_row_is_measured_in_what_it_can_become(
    source: Path, calibration: Calibration, tmp_path: Path
) -> None:
    tensors = load_file(source)
    for name in [key for key in tensors if "double_blocks" in key]:
        scale = tensors[name].float().abs().amax(dim=1, keepdim=True) / 448
        tensors[name] = (tensors[name].float() / scale).to(torch.float8_e4m3fn)
        tensors[name.replace(".weight", ".weight_scale")] = scale
    path = tmp_path / "rows.safetensors"
    save_file(tensors, path)
    again = calibrated_like(path)
    choices = choices_of(("nvfp4", "float8_e4m3fn"), ("nearest",))
    found = measured(path, again, *choices)
    layer = found.layer(PROJ)
    assert layer is not None and [outcome.choice.label for outcome in layer.outcomes] == ["nvfp4/nearest"]
    assert 0 < layer.outcomes[0].noise < 0.1 * layer.signal
    unseen = replace(again, layers={name: seen for name, seen in again.layers.items() if name != PROJ})
    fixed = measured(path, unseen, *choices).layer(PROJ)
    assert fixed is not None and fixed.fixed and [outcome.choice.label for outcome in fixed.outcomes] == ["keep"]
    assert fixed.kept.bytes == 128 * 128 + 4 * 128
    with open_source(path) as opened:
        budgeted = plan_budget(opened, Options(recipe="weight-only"), again, "c", found, parse_budget("size<=0.9"))
        assert budgeted.plan.count()["nvfp4"] == 4
        asked = Asked(recipes=("generic", "weight-only"), roundings=("nearest",), formats=("nvfp4", "int4-g128"))
        compared = sweep(opened, again, found, asked, options=Options(recipe="weight-only"))
    assert "should stay FP8" in compared.left_out["generic"]
    source_row = compared.row("source")
    assert source_row is not None and source_row.id == "0" and source_row.error == 0
    assert compared.row("weight-only-nearest") is not None


def test_weights_are_sampled_once_however_often_is_planned(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint("scaled")
    again = calibrated_like(path)
    found = measured(path, again, Choice("nvfp4", "nearest"))
    reads, read_into = [], Source.read_into

    def counting(source: Source, number: int, start: int, view: memoryview) -> None:
        reads.append(start)
        read_into(source, number, start, view)

    monkeypatch.setattr(Source, "read_into", counting)
    options = Options(recipe="weight-only")
    with open_source(path) as opened:
        make_plan(opened, options, again)
        planned = len(reads)
        source_fingerprint(opened)
        known = len(reads)
        plan_budget(opened, options, again, "c", found, parse_budget("size<=0.9"))
        make_plan(opened, options, again)
    assert 0 < planned < known == len(reads)


def calibrated_like(path: Path) -> Calibration:
    """Of the same weights as the FP8 file holds."""

    class Upcast(Layers):
        def _add(self, name: list[str], weight: torch.Tensor) -> None:
            with safe_open(str(path), framework="pt") as file:
                scale = ".".join(name) + ".weight_scale"
                scaled = scale in set(file.keys())
                super()._add(name, weight * file.get_tensor(scale) if scaled else weight)

    model = Upcast(path)
    collector = Collector(model, detail="curvature")
    with collector.observing(0.5):
        model(0)
    return collector.finish(images=1)


def test_sizes_and_speeds_add_up(source: Path, calibration: Calibration, tmp_path: Path) -> None:
    found = measured(source, calibration, kernels=load_table("rtx-5090"))
    keep = {layer.module: layer.outcomes[0] for layer in found.layers}
    with open_source(source) as opened:
        assert found.bytes_of(keep) == sum(info.nbytes for info in opened.tensors.values())
    assert found.error_of(keep) == 0
    fp8 = {layer.module: (layer.of_policy("float8_e4m3fn") or layer.outcomes)[0] for layer in found.layers}
    assert found.speed_of(fp8) == pytest.approx(1.0, abs=0.02)
    small = {layer.module: (layer.of_policy("nvfp4") or layer.outcomes)[0] for layer in found.layers}
    target = tmp_path / "t.safetensors"
    report = convert(source, target, Options(recipe="weight-only"), calibration=calibration, device="cpu")
    planned = {layer.module: layer.bytes_after for layer in report.plan.layers}
    assert {module: outcome.bytes for module, outcome in small.items()} == planned


def test_an_all_in_one_file_is_measured_below_its_prefix(
    source: Path, calibration: Calibration, tmp_path: Path
) -> None:
    inside = {f"model.diffusion_model.{name}": tensor for name, tensor in load_file(source).items()}
    encoder = {"text_encoders.t5.transformer.fc.weight": torch.randn(64, 64).bfloat16()}
    path, target = tmp_path / "all.safetensors", tmp_path / "small.safetensors"
    save_file({**inside, **encoder, "model.diffusion_model.extra": torch.zeros(3)}, path)
    found = measured(path, calibration, Choice("nvfp4", "nearest"))
    bare = measured(source, calibration, Choice("nvfp4", "nearest"))
    assert [layer.name.removeprefix("model.diffusion_model.") for layer in found.layers] == [
        layer.module for layer in found.layers
    ]
    assert {layer.module: layer.signal for layer in found.layers} == {
        layer.module: layer.signal for layer in bare.layers
    }
    assert found.other_bytes == 64 * 64 * 2 + 3 * 4
    options = Options(recipe="weight-only", layout="diffusion-model", rounding="nearest")
    convert(path, target, options, calibration=calibration, device="cpu")
    with open_source(path) as before, open_source(target) as after:
        fidelity = output_fidelity(before, after, calibration)
    by_name = {layer.name: layer.mse for layer in fidelity.layers}
    outcome = found.layer(PROJ).outcomes[1]  # type: ignore[union-attr]
    assert by_name[PROJ] == pytest.approx(outcome.noise) and (fidelity.quantized, fidelity.linear) == (4, 5)


def test_a_calibration_without_rows_is_refused_and_another_models_too(source: Path, calibration: Calibration) -> None:
    with pytest.raises(SensitivityError, match="detail curvature"):
        measured(source, calibrated(source, "scales"))
    layers = {f"other.{name}": layer for name, layer in calibration.layers.items()}
    with pytest.raises(PlanError, match="another model"):
        measured(source, replace(calibration, layers=layers))


@pytest.mark.parametrize(
    "module", [one_layer, simulating, verify_outputs], ids=lambda module: module.__name__.rpartition(".")[2]
)
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "The GPU has not enough memory for {}; .* --device cpu"),
        (MemoryError(), "There is not enough memory for {}; close other programs and start again"),
    ],
    ids=["gpu", "host"],
)
def test_memory_that_runs_out_while_measuring_is_one_sentence(
    source: Path,
    calibration: Calibration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    raised: Exception,
    told: str,
) -> None:
    choice, target = Choice("nvfp4", "nearest"), tmp_path / "out.safetensors"
    options = Options(recipe="weight-only", rounding="nearest")
    convert(source, target, options, calibration=calibration, device="cpu")
    known = measured(source, calibration, choice)
    asked = Asked(recipes=("weight-only",), roundings=("nearest",), formats=("int4-g128",))

    def full(*_: object) -> None:
        raise raised

    monkeypatch.setattr(module, "outputs", full)
    with (
        open_source(source) as before,
        open_source(target) as after,
        pytest.raises(ConversionError, match=told.format(r"[\w.]+\.weight")),
    ):
        if module is one_layer:
            measured(source, calibration, choice)
        elif module is simulating:
            sweep(before, calibration, known, asked, options=options)
        else:
            output_fidelity(before, after, calibration)


def test_it_goes_on_after_a_cancel_and_gives_the_same_bytes(
    source: Path, calibration: Calibration, tmp_path: Path
) -> None:
    target = tmp_path / "s.json"
    choices = choices_of(("nvfp4",), ("nearest",))
    seen: list[str] = []
    with open_source(source) as opened:
        with pytest.raises(Cancelled):
            measure_and_save(
                opened,
                calibration,
                target,
                choices,
                workers=1,
                progress=lambda done, whole, label: seen.append(label),
                cancelled=lambda: len(seen) >= 3,
            )
        assert not target.exists() and (tmp_path / ".s.json.part").exists()
        with (tmp_path / ".s.json.part").open("ab") as file:
            file.write(b'{"cut off')
        calls: list[str] = []
        whole = measure_and_save(opened, calibration, target, choices, progress=lambda d, w, label: calls.append(label))
        assert len(calls) == len(whole.layers)
        again = tmp_path / "again.json"
        measure_and_save(opened, calibration, again, choices, workers=3)
    assert target.read_bytes() == again.read_bytes() and load(target) == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_a_cancelled_measurement_kept_is_discarded_unless_one_runs(tmp_path: Path) -> None:
    target, unfinished, foreign = (tmp_path / name for name in ("s.json", ".s.json.part", "foreign"))
    discard_unfinished(target)
    assert list(tmp_path.iterdir()) == []
    with open_private(unfinished) as held:
        assert lock(held)
        with pytest.raises(SensitivityError, match=r"s\.json is being measured; wait for it, or cancel it first"):
            discard_unfinished(target)
        assert unfinished.exists()
    discard_unfinished(target)
    assert not unfinished.exists()
    foreign.write_bytes(b"kept")
    unfinished.symlink_to(foreign)
    discard_unfinished(target)
    assert unfinished.is_symlink() and foreign.read_bytes() == b"kept"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_measures_the_same(source: Path, calibration: Calibration) -> None:
    choices = choices_of(("all",), ("all",))
    here, there = (measured(source, calibration, *choices, device=torch.device(device)) for device in ("cpu", "cuda"))
    for one, other in zip(here.layers, there.layers, strict=True):
        assert other.signal == pytest.approx(one.signal, rel=1e-4)
        for mine, theirs in zip(one.outcomes, other.outcomes, strict=True):
            assert mine.choice == theirs.choice and theirs.noise == pytest.approx(mine.noise, rel=0.02, abs=1e-12)


def test_two_measurements_do_not_share_a_file(source: Path, calibration: Calibration, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with ProgressFile(kept, "another", str, int), pytest.raises(SensitivityError, match="is being measured already"):
        measured(source, calibration, Choice("nvfp4", "nearest"), unfinished=kept)


def test_what_was_measured_otherwise_is_not_taken(source: Path, calibration: Calibration, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    first = measured(source, calibration, Choice("nvfp4", "nearest"), unfinished=kept)
    same = measured(source, calibration, Choice("nvfp4", "nearest"), unfinished=kept)
    other = measured(source, calibration, Choice("nvfp4", "nearest"), unfinished=kept, weighting="early")
    assert same == first and other.layers[0].signal != first.layers[0].signal


def test_rows_count_by_their_part_of_the_schedule(source: Path, calibration: Calibration) -> None:
    reservoir = calibration.layers[PROJ].reservoir
    assert reservoir is not None
    bins = reservoir.noise_bins()

    def shares(name: str) -> dict[int, float]:
        weights = row_weights(name, reservoir, calibration)
        assert float(weights.sum()) == pytest.approx(1.0)
        return {int(number): round(float(weights[bins == number].sum()), 9) for number in bins.unique()}

    assert shares("schedule") == {1: 0.25, 8: 0.25, 15: 0.5}
    assert all(share == pytest.approx(1 / 3) for share in shares("path").values())
    early = shares("early")
    assert early[1] / early[15] == pytest.approx(1.5 / 15.5)
    assert set(row_weights("uniform", reservoir, calibration).tolist()) == {1 / 64}


def test_influence_is_what_arrives_of_a_layers_error() -> None:
    torch.manual_seed(0)
    small, large = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
    values = torch.randn(512, 64)

    def evaluate() -> torch.Tensor:
        return 0.1 * small(values) + large(values)

    prober, reference = Prober({"small": small, "large": large}), evaluate().detach()
    for name in ("small", "large"):
        prober.probe(name, reference, lambda: evaluate().detach())
    found = {name: probes.influence for name, probes in prober.probes.items()}
    for name, module, factor in (("small", small, 0.1), ("large", large, 1.0)):
        expected = factor**2 * float(module(values).detach().square().sum() / reference.square().sum())
        assert found[name] == pytest.approx(expected, rel=0.05)
    assert torch.equal(evaluate().detach(), reference), "hooks are gone"


def test_probes_are_spread_and_add_up_over_files(tmp_path: Path) -> None:
    layers = {name: torch.nn.Linear(4, 4, bias=False) for name in "abcdef"}
    values = torch.ones(3, 4)

    def evaluate() -> torch.Tensor:
        return sum(layer(values).detach() for layer in layers.values())  # type: ignore[return-value]

    path, order = tmp_path / "influence.json", []
    save_influence({}, path)
    for _ in range(9):  # a new prober each time, as after a restart
        prober = Prober(layers, load_probes(path))
        name = prober.least_probed()
        assert name is not None
        prober.probe(name, evaluate(), evaluate)
        save_influence(prober.probes, path)
        order.append(name)
    assert sorted(order[:6]) == list("abcdef") != order[:6]
    assert sorted(found.count for found in load_probes(path).values()) == [1, 1, 1, 2, 2, 2]
    assert Prober({}).least_probed() is None
    stuck = Prober(layers, load_probes(path))
    tried = []
    for _ in range(6):  # a step that is taken from a cache, or layers that never run
        name = stuck.least_probed()
        assert name is not None
        stuck.probe(name, evaluate(), lambda: torch.zeros(3, 4))
        tried.append(name)
    assert stuck.probes == load_probes(path) and len(set(tried)) >= 5
    again = Prober(layers, {"a": Probes.of(3.0)})
    again.probe("a", evaluate(), lambda: 2 * evaluate())
    assert again.probes["a"].count == 2
    assert again.probes["a"].influence == pytest.approx((3.0 + 1 / 0.05**2) / 2, rel=0.2)


def test_runs_that_know_nothing_of_each_other_probe_different_layers() -> None:
    layers = {f"blocks.{number}.proj": torch.nn.Linear(1, 1) for number in range(40)}
    begun = {order: Prober(layers, order=order).least_probed() for order in range(0, 1 << 32, 1 << 28)}
    assert len(set(begun.values())) > 8
    assert begun == {order: Prober(layers, order=order).least_probed() for order in begun}


def test_probes_add_up_to_the_same_file_in_any_order_and_split(tmp_path: Path) -> None:
    """In floats (0.1 + 0.2) + 0.3 is not 0.1 + (0.2 + 0.3)."""
    runs = [{"a": Probes.of(0.1), "b": Probes.of(7.0, 3)}, {"a": Probes.of(0.2)}, {"a": Probes.of(0.3)}, {}]
    runs += [{"a": Probes.of(1e-7 * number), "c": Probes.of(1e5 / (number + 1))} for number in range(5)]
    paths = [tmp_path / f"{number}.safetensors" for number in range(len(runs))]
    for path, probes in zip(paths, runs, strict=True):
        keep_beside(probes, path)

    def merged(parts: list[Path], into: str) -> Path:
        keep_beside(merged_influence(parts), target := tmp_path / f"{into}.safetensors")
        return target

    expected = beside(merged(paths, "all")).read_bytes()
    assert beside(merged(paths[::-1], "reversed")).read_bytes() == expected
    for cut in range(1, len(paths)):
        halves = [merged(paths[cut:], "right"), merged(paths[:cut], "left")]
        assert beside(merged(halves, "both")).read_bytes() == expected
    found = load_probes(beside(tmp_path / "all.safetensors"))
    assert found["a"].count == 8 and found["a"].influence == pytest.approx((0.6 + 1e-6) / 8, abs=2**-40)
    assert found["b"] == runs[0]["b"] and found["c"].influence == pytest.approx(
        1e5 * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5
    )
    keep_beside({}, tmp_path / "all.safetensors")
    assert not beside(tmp_path / "all.safetensors").exists()
    assert (
        influence_summary({"a": Probes.of(1.0), "b": Probes.of(1.0, 3)}, 9)
        == "influence of 2 of 9 layers, 1 to 3 probes each"
    )


@pytest.mark.parametrize(
    "entry",
    [1, [1], [1, 2, 3], [-1, 2], [1, -2], [1, 0.5], ["1", 1], [None, 1], [0.5, 1], [True, 1], [1, 0], [1 << 81, 1]],
)
def test_hostile_probes_are_refused(entry: object, tmp_path: Path) -> None:
    path = tmp_path / "influence.json"
    path.write_text(json.dumps({"format": "nvfp4-studio-influence", "version": 1, "layers": {"a": entry}}))
    with pytest.raises(SensitivityError, match="no usable influence"):
        load_probes(path)


def test_influence_multiplies_shares_and_unprobed_layers_get_their_kinds_median(
    source: Path, calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "influence.json"
    save_influence({PROJ: Probes.of(0.25, 2), "img_in": Probes.of(4.0)}, path)
    found = measured(source, calibration, Choice("nvfp4", "nearest"), influence=load_influence(path))
    layer = found.layer(PROJ)
    assert layer is not None
    assert layer.share(layer.outcomes[1]) == pytest.approx(0.25 * layer.outcomes[1].noise / layer.signal)
    assert [found.layer(name).influence for name in ("double_blocks.1.img_attn.proj", "double_blocks.1.img_mlp.0")] == [  # type: ignore[union-attr]
        0.25,
        2.125,
    ]
    with pytest.raises(SensitivityError, match="none of this model"):
        measured(source, calibration, Choice("nvfp4", "nearest"), influence={"elsewhere": 1.0})


def document() -> dict[str, Any]:
    from nvfp4_studio.converters.sensitivity import LayerSensitivity, Outcome

    outcomes = (
        Outcome(Choice("keep"), 64, 0.0, 1.0),
        Outcome(Choice("nvfp4", "gptq", 0.5, True), 20, 0.1, 0.3),
        Outcome(Choice("mxfp8"), 40, 0.01, 0.5),
    )
    layer = LayerSensitivity("m.x", "x", "x", "", (4, 8), 3, 2.0, 1.0, outcomes, influence=0.5)
    return Sensitivity("a", "b", "flux", "c", "p99.9", "uniform", "k", 10, 0.5, (layer,)).to_json()


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    read = from_json(json.loads(json.dumps(document())))
    assert read.to_json() == document()
    assert [outcome.choice.label for outcome in read.layers[0].outcomes] == ["keep", "nvfp4/gptq+awq0.5+gain", "mxfp8"]
    save(read, tmp_path / "s.json")
    assert load(tmp_path / "s.json") == read


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "something else"},
        {"version": 2},
        {"layers": {}},
        {"source": "line\nbreak"},
        {"other_bytes": -1},
        {"other_time": float("nan")},
        {"details": {"a": 5}},
        {"layers.noise": -1.0},
        {"layers.noise": float("inf")},
        {"layers.noise": "1"},
        {"layers.bytes": 1.5},
        {"layers.policy": "int3"},
        {"layers.rounding": "prettily"},
        {"layers.gain": 1},
        {"layer.shape": [4]},
        {"layer.shape": [4, True]},
        {"layer.influence": -2},
        {"layer.outcomes": []},
        {"layer.module": "\x1b[31m"},
    ],
)
def test_a_hostile_file_is_refused_in_a_sentence(damage: dict[str, Any], tmp_path: Path) -> None:
    data = document()
    ((key, value),) = damage.items()
    place, _, field = key.partition(".")
    target = {"layers": data["layers"][0]["outcomes"][1], "layer": data["layers"][0]}[place] if field else data
    target[field or key] = value
    path = tmp_path / "s.json"
    path.write_text(json.dumps(data))
    with pytest.raises(SensitivityError) as caught:
        load(path)
    assert str(caught.value).isprintable() and str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[", b"[" * 100_000, b"\xff\xfe", b"null"])
def test_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content)
    for read in (load, load_influence):
        with pytest.raises(SensitivityError):
            read(path)


def test_choices_are_checked() -> None:
    with pytest.raises(PlanError, match="nvfp5"):
        choices_of(("nvfp5",))
    with pytest.raises(PlanError, match="prettily"):
        choices_of(("nvfp4",), ("prettily",))
    with pytest.raises(PlanError, match="exponent 1.5"):
        choices_of(exponents=(1.5,))
    assert len(choices_of(("all",), ("all",))) == 13
