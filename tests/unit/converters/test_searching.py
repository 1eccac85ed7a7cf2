"""A conversion that searches each layer's pre_quant_scale: what it takes, that it is told, that a kill loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Calibration, CalibrationError, Collector, load, save
from nvfp4_studio.calibration.stored import StoredFile
from nvfp4_studio.converters import (
    Cancelled,
    ConversionError,
    Options,
    Pin,
    PlanError,
    convert,
    load_recipe,
    open_source,
    searching,
    with_pins,
)
from nvfp4_studio.converters.formats import Weight
from nvfp4_studio.converters.held_out import search_pre_quant
from nvfp4_studio.converters.rounding import METHODS
from nvfp4_studio.converters.writer import Writer
from nvfp4_studio.converters.writing import target as target_module
from nvfp4_studio.converters.writing.leftovers import discard
from nvfp4_studio.converters.writing.target import search_name

ROWS, COLUMNS = 48, 144
SPREADS = {"blocks.0.outliers": 1.4, "blocks.1.outliers": 1.0, "blocks.2.outliers": 0.0}
"""How much the sizes of each layer's input channels differ; the last one's are alike."""
TAMED = list(SPREADS)[:2]
SEARCH = Options(recipe="weight-only", rounding="nearest", pre_quant="search")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.blocks = torch.nn.ModuleList()
        for _ in SPREADS:
            linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
            linear.weight.data = torch.randn(ROWS, COLUMNS, generator=generator) * 0.02
            self.blocks.append(torch.nn.ModuleDict({"outliers": linear}))


def calibrated(detail: str = "curvature") -> Calibration:
    model, generator = Model(), torch.Generator().manual_seed(2)
    collector = Collector(model, detail=detail)
    with collector.observing(0.5):
        for block, spread in zip(model.blocks, SPREADS.values(), strict=True):
            sizes = torch.exp(spread * torch.randn(COLUMNS, generator=generator))
            for _ in range(4):
                block["outliers"](torch.randn(1024, COLUMNS, generator=generator) * sizes)  # type: ignore[index]
    return collector.finish(images=1)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrated()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in Model().state_dict().items()}, path)
    return path


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("rounding", ["nearest", "weighted", "gptq"])
def test_the_file_is_that_of_the_best_exponents_pinned_by_hand(
    source: Path, calibration: Calibration, rounding: str
) -> None:
    found = source.with_name("found.safetensors")
    options = Options(recipe="weight-only", rounding=rounding, pre_quant="search")
    report = convert(source, found, options, calibration=calibration)
    weights = {name: Weight(name, tensor) for name, tensor in load_file(source).items()}
    best = {
        name: search_pre_quant(weights[f"{name}.weight"], calibration.layers[name], rounding, input_policy="p99.9")
        for name in SPREADS
    }
    assert [name for name, scaling in best.items() if scaling is not None] == TAMED
    by_hand = {name: Pin("nvfp4", pre_quant_exponent=scaling.exponent) for name, scaling in best.items() if scaling}
    pinned = Options(with_pins(load_recipe("weight-only"), by_hand, name="mine", title="mine"), rounding)
    convert(source, source.with_name("hand.safetensors"), pinned, calibration=calibration)
    one, other = load_file(found), load_file(source.with_name("hand.safetensors"))
    assert one.keys() == other.keys() and f"{TAMED[0]}.pre_quant_scale" in one
    assert all(
        torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one if one[name].dim()
    )
    assert {layer.name: layer.pre_quant_exponent for layer in report.plan.layers} == {
        name: scaling.exponent if scaling else None for name, scaling in best.items()
    }
    assert report.verification.problems == () and hidden(source.parent) == []


def test_plan_report_and_header_tell_what_was_found(source: Path, calibration: Calibration) -> None:
    target = source.with_name("out.safetensors")
    report = convert(source, target, SEARCH, calibration=calibration)
    reasons = {layer.name: layer.reason for layer in report.plan.layers}
    for name in TAMED:
        assert reasons[name].startswith("rule nvfp4: every layer; pre_quant_scale: exponent 0.") and "dB closer" in reasons[name]  # fmt: skip
    assert reasons["blocks.2.outliers"].endswith("; pre_quant_scale: none brings its outputs closer")
    assert "pre_quant_scale: 2 of 3 NVFP4 layers" in report.plan.to_markdown()
    assert "pre_quant_scale: 2 of 3 NVFP4 layers" in report.to_markdown()
    with open_source(target) as written:
        made = json.loads(written.metadata["nvfp4_studio"])
    assert report.plan.options == SEARCH, "what was asked for, by which a node knows its own file again"
    assert made["pre_quant"] == "search" and made["recipe_content"]["layers"].keys() == SPREADS.keys()


def test_threads_change_no_byte(source: Path, calibration: Calibration) -> None:
    written = []
    for workers in (1, 4):
        target = source.with_name(f"{workers}.safetensors")
        convert(source, target, SEARCH, calibration=calibration, workers=workers)
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_a_pinned_exponent_is_not_searched(source: Path, calibration: Calibration) -> None:
    pins = {TAMED[0]: Pin("nvfp4", pre_quant_exponent=0.1, gain=True, reason="by hand"), TAMED[1]: Pin("keep")}
    recipe = with_pins(load_recipe("weight-only"), pins, name="mine", title="mine")
    options = Options(recipe, "nearest", pre_quant="search")
    report = convert(source, source.with_name("out.safetensors"), options, calibration=calibration)
    by_name = {layer.name: layer for layer in report.plan.layers}
    assert (by_name[TAMED[0]].pre_quant_exponent, by_name[TAMED[0]].reason) == (0.1, "by hand")
    assert by_name[TAMED[1]].action == "copy"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the weights that are searched from now on."""
    names: list[str] = []
    original = searching.search_pre_quant

    def counting(weight: Weight, *rest: Any, **more: Any) -> Any:
        names.append(weight.name)
        return original(weight, *rest, **more)

    monkeypatch.setattr(searching, "search_pre_quant", counting)
    return names


@pytest.mark.parametrize("until", ["searching", "writing"])
def test_what_was_searched_before_a_kill_is_not_searched_again(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    """The state that a kill leaves is made by copying it away: after two layers, and while the file is written."""
    target, saved = source.with_name("out.safetensors"), {}

    def snapshot(done: int, total: int, label: str) -> None:
        if label == f"searching pre_quant_scale of {TAMED[1]}" or (until == "writing" and label == "writing to disk"):
            saved.update({path: path.read_bytes() for path in target.parent.glob(".out*")})

    convert(source, target, SEARCH, calibration=calibration, workers=1, progress=snapshot)
    whole = target.read_bytes()
    target.unlink()
    assert [path.name for path in saved][0] == ".out.safetensors.search"
    for path, content in saved.items():
        path.write_bytes(content)
    searched = counted(monkeypatch)
    convert(source, target, SEARCH, calibration=calibration)
    assert searched == (["blocks.2.outliers"] if until == "searching" else [])
    assert target.read_bytes() == whole and hidden(source.parent) == []


def test_another_calibrations_search_is_not_gone_on_with(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, saved = source.with_name("out.safetensors"), {}

    def snapshot(*_: object) -> None:
        saved.update({path: path.read_bytes() for path in target.parent.glob(".out*.search")})

    convert(source, target, SEARCH, calibration=calibration, progress=snapshot)
    target.unlink()
    for path, content in saved.items():
        path.write_bytes(content)
    searched = counted(monkeypatch)
    convert(source, target, Options("weight-only", "gptq", pre_quant="search"), calibration=calibration)
    assert sorted(searched) == sorted(SPREADS)


def test_a_search_that_was_killed_leaves_nothing_beside_a_file_without_one(
    source: Path, calibration: Calibration
) -> None:
    target = source.with_name("out.safetensors")
    search_name(target).write_bytes(b'"the fingerprint of a search"\n')
    convert(source, target, Options("weight-only", "nearest"), calibration=calibration)
    assert hidden(source.parent) == []


def test_a_cancel_in_the_search_leaves_nothing(source: Path, calibration: Calibration) -> None:
    stop: list[bool] = []

    def progress(done: int, total: int, label: str) -> None:
        assert 0 < done <= total and label.startswith("searching pre_quant_scale of ")
        stop.append(True)

    with pytest.raises(Cancelled):
        convert(
            source,
            source.with_name("out.safetensors"),
            SEARCH,
            calibration=calibration,
            progress=progress,
            cancelled=lambda: bool(stop),
        )
    assert [path.name for path in source.parent.iterdir()] == ["source.safetensors"]


def test_a_full_disk_is_told_before_the_search(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = counted(monkeypatch)
    monkeypatch.setattr(target_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    with pytest.raises(ConversionError, match=r"0\.00 GB free but the output needs 0\.00 GB; make room"):
        convert(source, source.with_name("out.safetensors"), SEARCH, calibration=calibration)
    assert searched == [] and hidden(source.parent) == []


@pytest.mark.parametrize("failing", ["searching", "writing"])
def test_what_was_searched_outlives_an_error(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    target = source.with_name("out.safetensors")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    def progress(done: int, total: int, label: str) -> None:
        if failing in label and done == total:
            refuse()

    with pytest.raises(OSError, match="Input/output error"):
        convert(source, target, SEARCH, calibration=calibration, workers=1, progress=progress)
    assert hidden(source.parent) == [".out.safetensors.search"]
    searched = counted(monkeypatch)
    convert(source, target, SEARCH, calibration=calibration)
    assert searched == [] and hidden(source.parent) == []


def test_a_gpu_that_is_full_while_searching_is_one_sentence(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(searching, "search_pre_quant", full)
    with pytest.raises(
        ConversionError, match=r"The GPU has not enough memory for blocks.0.outliers.weight; .* --device cpu\.$"
    ):
        convert(source, source.with_name("out.safetensors"), SEARCH, calibration=calibration)
    assert hidden(source.parent) == []


class HostCancel(BaseException):
    """What ComfyUI raises out of a progress bar."""


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, HostCancel])
def test_an_interrupt_keeps_no_search(source: Path, calibration: Calibration, interrupt: type[BaseException]) -> None:
    def progress(done: int, total: int, label: str) -> None:
        raise interrupt

    with pytest.raises(interrupt):
        convert(source, source.with_name("out.safetensors"), SEARCH, calibration=calibration, progress=progress)
    assert hidden(source.parent) == []


def test_images_that_are_added_meanwhile_do_not_stop_a_conversion(
    source: Path, tmp_path: Path, calibration: Calibration
) -> None:
    stored, target = tmp_path / "calibration.safetensors", tmp_path / "out.safetensors"
    options = Options(recipe="weight-only", rounding="gptq", pre_quant="search")
    convert(source, target, options, calibration=calibration)
    save(calibration, stored)

    def another_image(done: int, total: int, label: str) -> None:
        save(calibration.merged(calibration), stored)

    other = tmp_path / "other.safetensors"
    loaded = load(stored)
    if not StoredFile.STAYS_OPEN:
        with pytest.raises(CalibrationError, match="perhaps by another image"):
            convert(source, other, options, calibration=loaded, progress=another_image)
        return
    convert(source, other, options, calibration=loaded, progress=another_image)
    assert other.read_bytes() == target.read_bytes()


def test_discarding_a_killed_conversion_takes_the_search_along(source: Path, calibration: Calibration) -> None:
    target, saved = source.with_name("out.safetensors"), {}

    def snapshot(done: int, total: int, label: str) -> None:
        saved.update({path: path.read_bytes() for path in target.parent.glob(".out*")})

    convert(source, target, SEARCH, calibration=calibration, progress=snapshot)
    target.unlink()
    for path, content in saved.items():
        path.write_bytes(content)
    assert len(hidden(source.parent)) == 3
    discard(target)
    assert hidden(source.parent) == []


@pytest.mark.parametrize("asked", [{"pre_quant": "search"}, {"gain": True}])
@pytest.mark.parametrize("detail", [None, "channels"])
def test_nothing_is_measured_without_input_rows(source: Path, asked: dict[str, Any], detail: str | None) -> None:
    seen = None if detail is None else calibrated(detail)
    with pytest.raises(PlanError, match=r"is measured on input rows of layers, and .* calibrate with detail curvature"):
        convert(source, source.with_name("out.safetensors"), Options(**asked), calibration=seen)
    assert hidden(source.parent) == []


def test_an_unknown_choice_is_refused(source: Path) -> None:
    with pytest.raises(PlanError, match="no pre_quant choice 'always'; choose one of off, search"):
        convert(source, source.with_name("out.safetensors"), Options(pre_quant="always"))


@pytest.mark.parametrize("rounding", METHODS)
def test_a_gain_for_the_whole_file_is_that_of_pinned_layers(
    source: Path, calibration: Calibration, rounding: str
) -> None:
    plain, wanted, found = (source.with_name(f"{name}.safetensors") for name in ("plain", "pinned", "gain"))
    convert(source, plain, Options("weight-only", rounding), calibration=calibration)
    pins = {name: Pin("nvfp4", gain=True) for name in SPREADS}
    recipe = with_pins(load_recipe("weight-only"), pins, name="mine", title="mine")
    convert(source, wanted, Options(recipe, rounding), calibration=calibration)
    convert(source, found, Options("weight-only", rounding, gain=True), calibration=calibration)
    without, pinned, asked = (load_file(path) for path in (plain, wanted, found))
    assert {name for name in asked if not torch.equal(asked[name], pinned[name])} == set()
    differing = {name for name in asked if not torch.equal(asked[name], without[name])}
    assert all(name.endswith(".weight_scale_2") for name in differing)


def test_a_layer_without_rows_gets_no_gain_and_that_is_told(source: Path, calibration: Calibration) -> None:
    layers = {**calibration.layers, TAMED[0]: replace(calibration.layers[TAMED[0]], reservoir=None)}
    partly = replace(calibration, layers=layers)
    options = Options("weight-only", "nearest", pre_quant="search", gain=True)
    report = convert(source, source.with_name("out.safetensors"), options, calibration=partly)
    first = next(layer for layer in report.plan.layers if layer.name == TAMED[0])
    assert not first.gain and first.notes == ("no gain: no rows of its input were kept while calibrating",)
    assert first.reason.endswith("pre_quant_scale: none, no rows of its input were kept while calibrating")
    assert any("no gain" in warning for warning in report.plan.warnings)


@pytest.mark.parametrize("rows", [True, False])
def test_a_killed_conversion_is_gone_on_with_only_by_a_calibration_with_the_same_rows(
    source: Path, calibration: Calibration, monkeypatch: pytest.MonkeyPatch, rows: bool
) -> None:
    """On the rows a rounding is compared with nearest: without them the bytes may be others."""
    target, saved = source.with_name("out.safetensors"), {}

    def snapshot(done: int, total: int, label: str) -> None:
        saved.update({path: path.read_bytes() for path in target.parent.glob(".out*")})

    options = Options("weight-only", "weighted")
    convert(source, target, options, calibration=calibration, progress=snapshot)
    target.unlink()
    for path, content in saved.items():
        path.write_bytes(content)
    layers = (
        calibration.layers
        if rows
        else {name: replace(seen, reservoir=None) for name, seen in calibration.layers.items()}
    )
    written: list[str] = []
    original = Writer.write
    monkeypatch.setattr(
        Writer, "write", lambda self, name, tensor: (written.append(name), original(self, name, tensor))
    )
    convert(source, target, options, calibration=replace(calibration, layers=layers))
    assert bool(written) == (not rows)
