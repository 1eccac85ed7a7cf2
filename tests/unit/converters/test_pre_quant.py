"""pre_quant_scale, gain and the safeguard: against plain float64 references, and by outputs on inputs never seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import comfy_kitchen as ck
import pytest
import torch
from comfy_kitchen.tensor import TensorCoreNVFP4Layout
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Calibration, Collector, LayerStatistics
from nvfp4_studio.converters import Options, PlanError, Report, convert, verify
from nvfp4_studio.converters.formats import Encoding, Weight, nvfp4
from nvfp4_studio.converters.held_out import HeldOut, gain_of, outputs, search_pre_quant
from nvfp4_studio.converters.recipe_file import parse_recipe
from nvfp4_studio.converters.rounding import METHODS, pre_quant
from nvfp4_studio.converters.writing import syncing

ROWS, COLUMNS = 96, 272
NAME = "blocks.0.linear"


def inputs(rows: int, seed: int, spread: float = 1.2) -> torch.Tensor:
    """Channels of different size, as activations have; ``spread`` 0 is white."""
    sizes = torch.exp(spread * torch.randn(COLUMNS, generator=torch.Generator().manual_seed(99)))
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(seed)) * sizes


def weights(seed: int = 5) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)) * 0.02


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
        linear.weight.data = weights()
        self.blocks = torch.nn.ModuleList([torch.nn.ModuleDict({"linear": linear})])

    def forward(self, values: torch.Tensor) -> None:
        self.blocks[0]["linear"](values)  # type: ignore[operator, index]


def calibrated(values: torch.Tensor, detail: str = "curvature") -> Calibration:
    model = Model()
    collector = Collector(model, detail=detail)
    for part in values.split(1024):
        with collector.observing(0.5):
            model(part)
    return collector.finish(images=1)


def seen(values: torch.Tensor) -> LayerStatistics:
    return calibrated(values).layers[NAME]


def error_in_kitchen(
    weight: torch.Tensor, stored: dict[str, torch.Tensor], scale: float, values: torch.Tensor
) -> float:
    """Relative squared error of outputs in float64, with comfy-kitchen's own kernels on both sides."""
    factor = stored.get("pre_quant_scale", torch.ones(COLUMNS)).float()
    rounded, params = TensorCoreNVFP4Layout.quantize(values * factor, scale=torch.tensor(scale))
    quantized = TensorCoreNVFP4Layout.dequantize(rounded, params)[: len(values), :COLUMNS].double()
    decoded = ck.dequantize_nvfp4(
        stored["weight"], stored["weight_scale_2"], stored["weight_scale"], output_type=torch.float32
    )[:ROWS, :COLUMNS].double()
    wanted = values.double() @ weight.double().T
    return float((wanted - quantized @ decoded.T).square().sum() / wanted.square().sum())


def test_the_vector_is_that_of_its_formula() -> None:
    values = inputs(4096, 1)
    values[:, 7] = 0
    statistics = seen(values)
    size = values.double().square().mean(dim=0).sqrt()
    alive = size > 0
    for exponent in (0.25, 1.0):
        wanted = torch.ones(COLUMNS, dtype=torch.float64)
        wanted[alive] = (size[alive] / size[alive].log().mean().exp()) ** -exponent
        found = pre_quant.pre_quant_scale(statistics, exponent)
        assert found.dtype == torch.bfloat16 and found[7] == 1
        torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=0)


def test_transformed_statistics_are_those_of_transformed_inputs() -> None:
    values = inputs(4096, 2).bfloat16().float()
    statistics = seen(values)
    scale = pre_quant.pre_quant_scale(statistics, 0.5)
    found, wanted = pre_quant.transformed(statistics, scale), seen(values * scale.float())
    assert found.channels is not None and wanted.channels is not None
    assert found.curvature is not None and wanted.curvature is not None and found.reservoir is not None
    assert found.amax == wanted.amax and torch.equal(found.channels.amax, wanted.channels.amax)
    torch.testing.assert_close(found.channels.mean_square(), wanted.channels.mean_square(), rtol=1e-5, atol=0)
    for block in range(wanted.curvature.blocks()):
        torch.testing.assert_close(found.curvature.gram(block), wanted.curvature.gram(block), rtol=1e-4, atol=1e-5)
    assert statistics.reservoir is not None
    torch.testing.assert_close(found.reservoir.values(), statistics.reservoir.values() * scale)
    assert abs(int(found.call_amax.nonzero().max()) - int(wanted.call_amax.nonzero().max())) <= 1


@pytest.mark.parametrize("rounding", METHODS)
@pytest.mark.parametrize("source", [torch.float8_e4m3fn, torch.bfloat16])
def test_the_weight_is_divided_by_what_the_runtime_multiplies_by(rounding: str, source: torch.dtype) -> None:
    statistics = seen(inputs(4096, 3))
    scale = pre_quant.pre_quant_scale(statistics, 0.5)
    encoding = Encoding(METHODS[rounding], statistics=pre_quant.transformed(statistics, scale))
    stored = (weights() * 1000).to(source)
    factor = torch.tensor(0.001) if source == torch.float8_e4m3fn else None
    found = nvfp4.encode(Weight("layer", stored, factor, divisor=scale), encoding)
    plain = Weight("layer", stored, factor).rows(0, ROWS).double() / scale.double()
    wanted = nvfp4.encode(Weight("layer", plain.float()), encoding)
    for name, tensor in wanted.items():
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_outputs_are_those_of_kitchens_kernels() -> None:
    statistics, weight = seen(inputs(4096, 4)), weights()
    assert statistics.reservoir is not None
    stored = nvfp4.encode(Weight("layer", weight), Encoding(METHODS["nearest"]))
    rows = HeldOut.of(statistics, 0.002)
    assert rows is not None
    found = outputs(Weight("layer", weight), stored, rows)
    wanted = error_in_kitchen(weight, stored, 0.002, statistics.reservoir.values().float())
    assert float(found.noise().sum() / found.signal.sum()) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("rounding", ["nearest", "weighted", "gptq"])
def test_the_search_takes_the_best_exponent_of_all(rounding: str, tmp_path: Path) -> None:
    """By converting with each of them, and by inputs that were never seen."""
    calibration, weight, fresh = calibrated(inputs(8192, 5)), weights(), inputs(2048, 6)
    save_file({f"{NAME}.weight": weight}, tmp_path / "source.safetensors")
    chosen = search_pre_quant(Weight("layer", weight), calibration.layers[NAME], rounding)
    errors = {}
    for exponent in (None, *pre_quant.EXPONENTS):
        pin = {"policy": "nvfp4", "rounding": rounding, **({"pre_quant_exponent": exponent} if exponent else {})}
        _, stored = converted(tmp_path, calibration, pin)
        errors[exponent] = error_in_kitchen(weight, stored, float(stored["input_scale"]), fresh)
    assert chosen is not None and errors[chosen.exponent] < 0.85 * errors[None]
    assert errors[chosen.exponent] < 1.03 * min(errors.values())


def test_the_search_knows_that_a_rounding_gives_way_to_nearest(source: Path, misled: Calibration) -> None:
    """Beside what GPTQ makes of wrong curvature any exponent is better; what would be written is compared."""
    found = search_pre_quant(Weight("layer", weights()), misled.layers[NAME], "gptq")
    nearest = search_pre_quant(Weight("layer", weights()), misled.layers[NAME], "nearest")
    assert found is not None and nearest is not None
    assert (found.exponent, found.closer_db) == (nearest.exponent, pytest.approx(nearest.closer_db))


def test_the_search_takes_none_where_channels_are_alike() -> None:
    statistics = seen(inputs(8192, 7, spread=0.0))
    assert search_pre_quant(Weight("layer", weights()), statistics) is None


def converted(
    folder: Path, calibration: Calibration | None, pin: dict[str, object], name: str = "out", **how: int
) -> tuple[Report, dict[str, torch.Tensor]]:
    """Convert the folder's source with its layer pinned; the report and the layer's tensors by suffix."""
    recipe = parse_recipe("pinned", {"block_names": "repeated", "rules": [], "layers": {NAME: pin}})
    target = folder / f"{name}.safetensors"
    report = convert(
        folder / "source.safetensors", target, Options(recipe=recipe), calibration=calibration, overwrite=True, **how
    )
    tensors = {key.removeprefix(f"{NAME}."): tensor for key, tensor in load_file(target).items()}
    return report, tensors


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file({f"{NAME}.weight": weights()}, tmp_path / "source.safetensors")
    return tmp_path


def test_a_pinned_layer_in_the_file(source: Path) -> None:
    calibration = calibrated(inputs(4096, 8))
    plain_report, plain = converted(source, calibration, {"policy": "nvfp4", "rounding": "gptq"})
    pin = {"policy": "nvfp4", "rounding": "gptq", "pre_quant_exponent": 0.5}
    report, stored = converted(source, calibration, pin)
    assert torch.equal(stored["pre_quant_scale"], pre_quant.pre_quant_scale(calibration.layers[NAME], 0.5))
    amax = pre_quant.transformed(calibration.layers[NAME], stored["pre_quant_scale"]).amax
    assert float(stored["input_scale"]) == pytest.approx(2 * amax / 2688, rel=1e-6)
    assert stored["input_scale"] != plain["input_scale"] and "pre_quant_scale" not in plain
    layer = report.plan.layers[0]
    assert (
        layer.pre_quant_exponent == 0.5 and layer.bytes_after == plain_report.plan.layers[0].bytes_after + 2 * COLUMNS
    )
    checked = verify(source / "source.safetensors", source / "out.safetensors")
    assert checked.problems == () and checked.layers == report.verification.layers
    whole = (source / "out.safetensors").read_bytes()
    converted(source, calibration, pin, "again", workers=1)
    assert (source / "again.safetensors").read_bytes() == whole


def test_what_is_pinned_and_cannot_be_is_refused(source: Path) -> None:
    scales = calibrated(inputs(4096, 9), "scales")
    with pytest.raises(PlanError, match="without detail channels"):
        converted(source, scales, {"policy": "nvfp4", "pre_quant_exponent": 0.5})
    with pytest.raises(PlanError, match="not calibrated"):
        converted(source, None, {"policy": "nvfp4", "pre_quant_exponent": 0.5})
    channels = calibrated(inputs(4096, 9), "channels")
    with pytest.raises(PlanError, match="pinned to a gain.*detail curvature"):
        converted(source, channels, {"policy": "nvfp4", "gain": True})
    assert "pre_quant_scale" not in converted(source, scales, {"policy": "nvfp4", "pre_quant_exponent": 0})[1]


@pytest.mark.parametrize("exponent", [None, 0.5])
def test_a_gain_is_that_of_its_formula(source: Path, exponent: float | None) -> None:
    calibration = calibrated(inputs(8192, 10))
    pin = {"policy": "nvfp4", "rounding": "block-search-mse", **({"pre_quant_exponent": exponent} if exponent else {})}
    _, plain = converted(source, calibration, pin)
    _, stored = converted(source, calibration, {**pin, "gain": True})
    assert torch.equal(stored["weight"], plain["weight"])
    reservoir = calibration.layers[NAME].reservoir
    assert reservoir is not None
    factor = stored.get("pre_quant_scale", torch.ones(COLUMNS, dtype=torch.bfloat16))
    values = reservoir.values() * factor
    wanted = values.double() @ (weights() / factor.float()).double().T
    decoded = ck.dequantize_nvfp4(
        plain["weight"], plain["weight_scale_2"], plain["weight_scale"], output_type=torch.float32
    )
    quantized = nvfp4.quantized_input(values, float(plain["input_scale"])).double()
    got = quantized @ decoded[:ROWS, :COLUMNS].double().T
    gain = float((wanted * wanted).sum() / (wanted * got).sum())
    assert gain > 1.001, "a rounding that clips makes outputs shorter"
    assert float(stored["weight_scale_2"] / plain["weight_scale_2"]) == pytest.approx(gain, rel=1e-5)


def test_no_gain_where_outputs_have_their_length() -> None:
    weight = weights()
    stored = nvfp4.encode(Weight("layer", weight), Encoding(METHODS["nearest"]))
    scales = nvfp4.unblocked_scales(stored["weight_scale"], (ROWS, COLUMNS))
    exact = nvfp4.decode_rows(stored["weight"], scales, stored["weight_scale_2"], COLUMNS)
    rows = HeldOut.of(seen(inputs(4096, 12)), None, full_precision=True)
    assert rows is not None
    assert gain_of(outputs(Weight("layer", exact), stored, rows)) == 1.0


@pytest.fixture
def misled() -> Calibration:
    """Curvature of other inputs than the rows that were kept: channels seem to go together that do not."""
    calibration = calibrated(inputs(4096, 13))
    mixed = torch.randn(8, COLUMNS, generator=torch.Generator().manual_seed(14))
    other = seen(torch.randn(4096, 8, generator=torch.Generator().manual_seed(15)) @ mixed)
    return replace(calibration, layers={NAME: replace(calibration.layers[NAME], curvature=other.curvature)})


def test_a_rounding_that_is_worse_than_nearest_is_not_used_and_the_report_tells(
    source: Path, misled: Calibration
) -> None:
    report, stored = converted(source, misled, {"policy": "nvfp4", "rounding": "gptq"})
    _, nearest = converted(source, misled, {"policy": "nvfp4", "rounding": "nearest"}, "nearest")
    assert all(torch.equal(stored[name].view(torch.uint8), nearest[name].view(torch.uint8)) for name in ("weight", "weight_scale"))  # fmt: skip
    layer = report.plan.layers[0]
    assert layer.rounding == "nearest" and "in place of gptq" in layer.notes[-1]
    assert any("in place of gptq" in warning for warning in report.plan.warnings)
    assert "in place of gptq" in report.to_markdown()
    honest = calibrated(inputs(4096, 13))
    assert converted(source, honest, {"policy": "nvfp4", "rounding": "gptq"})[0].plan.layers[0].rounding == "gptq"


@pytest.mark.parametrize("rounding", ["four-over-six", "block-search", "block-search-mse"])
def test_nor_is_one_that_looks_at_no_inputs(source: Path, rounding: str) -> None:
    """Only one channel carries anything, the one that the method rounds worse than nearest by the most."""
    errors = []
    for name in (rounding, "nearest"):
        tensors = nvfp4.encode(Weight("layer", weights()), Encoding(METHODS[name]))
        scales = nvfp4.unblocked_scales(tensors["weight_scale"], (ROWS, COLUMNS))
        rounded = nvfp4.decode_rows(tensors["weight"], scales, tensors["weight_scale_2"], COLUMNS)
        errors.append((rounded - weights()).square().sum(dim=0))
    values = torch.zeros(4096, COLUMNS)
    values[:, int((errors[0] / errors[1]).argmax())] = torch.randn(4096, generator=torch.Generator().manual_seed(16))
    pin = {"policy": "nvfp4", "rounding": rounding}
    report, stored = converted(source, calibrated(values), pin)
    _, nearest = converted(source, calibrated(values), {"policy": "nvfp4", "rounding": "nearest"}, "nearest")
    assert torch.equal(stored["weight"], nearest["weight"])
    assert f"in place of {rounding}" in report.plan.layers[0].notes[-1]
    assert converted(source, calibrated(inputs(4096, 13)), pin)[0].plan.layers[0].rounding == rounding


def test_a_resumed_conversion_writes_the_same_bytes_and_the_same_report(
    source: Path, misled: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that a kill leaves is made by copying it away before the end."""
    monkeypatch.setattr(syncing, "SYNC_BYTES", 1)
    saved: dict[str, bytes] = {}

    def snapshot(done: int, total: int, label: str) -> None:
        if label == "writing to disk":
            saved.update({path.name: path.read_bytes() for path in source.glob(".out*")})

    pin = {"policy": "nvfp4", "rounding": "gptq", "gain": True}
    recipe = parse_recipe("pinned", {"block_names": "repeated", "rules": [], "layers": {NAME: pin}})
    target = source / "out.safetensors"
    reports = []
    for progress in (snapshot, lambda *_: None):
        reports.append(
            convert(
                source / "source.safetensors", target, Options(recipe=recipe), calibration=misled, progress=progress
            )
        )
        if len(reports) == 1:
            whole = target.read_bytes()
            target.unlink()
            for name, data in saved.items():
                (source / name).write_bytes(data)
    assert target.read_bytes() == whole
    first, second = (json.dumps(report.plan.to_json()) for report in reports)
    assert first == second and "in place of gptq" in first
    assert reports[0].verification == reports[1].verification
