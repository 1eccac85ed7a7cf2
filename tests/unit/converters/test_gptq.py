"""Rounding that looks at the layer's inputs: against a plain reference, and by the error of outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.calibration import Calibration, Collector
from nvfp4_studio.converters import Options, convert
from nvfp4_studio.converters.formats import Encoding, Weight, nvfp4
from nvfp4_studio.converters.rounding import METHODS, four_over_six, gptq, rounding_for, weighted
from nvfp4_studio.converters.rounding.gptq import WIDTH, Hessian

CPU = torch.device("cpu")
GRID = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)


def inputs(rows: int, channels: int, seed: int) -> torch.Tensor:
    """Correlated, with channels of different size, as activations are."""
    generator = torch.Generator().manual_seed(99)
    mix = torch.randn(channels, max(1, channels // 4), generator=generator) / (channels // 4 + 1) ** 0.5
    size = torch.exp(0.7 * torch.randn(channels, generator=generator))
    generator.manual_seed(seed)
    hidden = torch.randn(rows, mix.shape[1], generator=generator)
    return (hidden @ mix.T + 0.3 * torch.randn(rows, channels, generator=generator)) * size


def gram(values: torch.Tensor) -> torch.Tensor:
    """Blocks float64 [B, 128, 128] of X^T X / rows, padded with zeros."""
    values = torch.nn.functional.pad(values.double(), (0, -values.shape[1] % WIDTH))
    return torch.stack([block.T @ block / len(block) for block in values.split(WIDTH, dim=1)])


def decoded(packed: torch.Tensor, scales: torch.Tensor, tensor_scale: torch.Tensor) -> torch.Tensor:
    return nvfp4.decode_rows(packed.flatten(1).contiguous(), scales, tensor_scale, packed.shape[1] * 16)


def reference(weights: torch.Tensor, hessian: torch.Tensor, tensor_scale: float) -> torch.Tensor:
    """GPTQ for one block of 128 channels, row by row and column by column, in float64."""
    damped = hessian + gptq.DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    every = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    result = torch.zeros_like(weights)
    for row in range(len(weights)):
        left = weights[row].clone()
        for first in range(0, len(left), 16):
            block, importance = left[first : first + 16], damped.diagonal()[first : first + 16]
            wanted = torch.tensor(float(block.abs().max()) / 6 / tensor_scale, dtype=torch.float32)
            nearest = int(wanted.to(torch.float8_e4m3fn).view(torch.uint8))
            tried = [every[min(126, max(1, nearest + step))] * tensor_scale for step in gptq.STEPS]
            errors = [float(((on_grid(block, scale) - block).square() * importance).sum()) for scale in tried]
            scale = tried[errors.index(min(errors))]
            for column in range(first, first + 16):
                result[row, column] = on_grid(left[column], scale)
                error = (left[column] - result[row, column]) / factor[column, column]
                left[column + 1 :] -= error * factor[column, column + 1 :]
    return result


def on_grid(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    distance = (values.abs().unsqueeze(-1) / scale - GRID).abs()
    return GRID[distance.argmin(-1)] * scale * values.sign()


def output_error(difference: torch.Tensor, values: torch.Tensor) -> float:
    return float((values.double() @ difference.double().T).square().sum())


def test_feeding_errors_forward_agrees_with_a_plain_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "SWEEPS", 0)
    weights = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(1))
    matrix = gram(inputs(4096, WIDTH, 2))
    tensor_scale = four_over_six.tensor_scale(weights.abs().max())
    found = decoded(*gptq.round_rows(weights, tensor_scale, Hessian.of(matrix, CPU)), tensor_scale)
    wanted = reference(weights.double(), matrix[0], float(tensor_scale))
    # A weight at the edge between two codes may fall either way in float32, and then those after it differ.
    same_rows = ((found.double() - wanted).abs() < 1e-6).all(dim=1).float().mean()
    assert same_rows > 0.7


def test_coordinate_descent_never_makes_the_error_larger() -> None:
    weights = torch.randn(40, 3 * WIDTH, generator=torch.Generator().manual_seed(3))
    hessian = Hessian.of(gram(inputs(4096, 3 * WIDTH, 4)), CPU)
    tensor_scale = four_over_six.tensor_scale(weights.abs().max())
    blocks = weights.reshape(40, 3, WIDTH).movedim(1, 0).contiguous()
    values, scales = gptq._feed_forward(blocks, tensor_scale, hessian)

    def error() -> torch.Tensor:
        difference = blocks - values
        return ((difference @ hessian.matrix) * difference).sum(dim=(0, 2))

    before = error()
    for _ in range(3):
        gptq._descend(blocks, values, scales, tensor_scale, hessian)
        after = error()
        assert (after <= before * (1 + 1e-5)).all()
        before = after


@pytest.mark.parametrize("shape", [(64, 256), (33, 272), (16, 48), (20, 144)])
def test_outputs_are_closer_than_with_any_simpler_method(shape: tuple[int, int]) -> None:
    weights = torch.randn(*shape, generator=torch.Generator().manual_seed(5))
    seen, fresh = inputs(8192, shape[1], 6), inputs(2048, shape[1], 7)
    tensor_scale = four_over_six.tensor_scale(weights.abs().max())
    found = decoded(*gptq.round_rows(weights, tensor_scale, Hessian.of(gram(seen), CPU)), tensor_scale)
    error = output_error(found - weights, fresh)
    for name, method in METHODS.items():
        if method.CANDIDATES:
            stored = nvfp4.encode(Weight("layer", weights), Encoding(method))
            scales = nvfp4.unblocked_scales(stored["weight_scale"], shape)
            simple = nvfp4.decode_rows(stored["weight"], scales, stored["weight_scale_2"], shape[1])[: shape[0]]
            assert error < 0.7 * output_error(simple - weights, fresh), name


def test_channels_that_never_carried_anything_and_weights_of_zero() -> None:
    weights = torch.randn(32, 160, generator=torch.Generator().manual_seed(8))
    weights[5] = 0
    seen = inputs(4096, 160, 9)
    seen[:, :48] = 0
    seen[:, 128:] = 0  # a whole block of H is zero
    tensor_scale = four_over_six.tensor_scale(weights.abs().max())
    found = decoded(*gptq.round_rows(weights, tensor_scale, Hessian.of(gram(seen), CPU)), tensor_scale)
    assert torch.isfinite(found).all() and (found[5] == 0).all()
    assert float((found - weights).square().sum() / weights.square().sum()) < 0.02


class Two(torch.nn.Module):
    """Two layers, of which one sees many rows and one a few."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(10)
        self.blocks = torch.nn.ModuleList(
            [torch.nn.ModuleDict({"much": torch.nn.Linear(272, 96), "little": torch.nn.Linear(96, 64)})]
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        block = self.blocks[0]
        return block["little"](block["much"](values)[:20])  # type: ignore[no-any-return, operator, index]


def calibrated(model: Two, detail: str) -> Calibration:
    collector = Collector(model, detail=detail)
    for seed in range(4):
        with collector.observing(0.5):
            model(inputs(1024, 272, seed))
    return collector.finish(images=4)


@pytest.mark.parametrize(
    ("detail", "much", "little"),
    [("scales", "block-search", "block-search"), ("channels", "weighted", "block-search"), ("curvature", "gptq", "block-search")],
)  # fmt: skip
def test_each_layer_gets_the_best_method_that_its_statistics_allow(
    detail: str, much: str, little: str, tmp_path: Path
) -> None:
    model = Two()
    source = tmp_path / "source.safetensors"
    weights = {f"{name}.weight": module.weight.detach().clone() for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}  # fmt: skip
    save_file(weights, source)
    calibration = calibrated(model, detail)
    report = convert(source, tmp_path / "auto.safetensors", Options(recipe="weight-only"), calibration=calibration)
    assert {layer.module: layer.rounding for layer in report.plan.layers} == {
        "blocks.0.much": much,
        "blocks.0.little": little,
    }
    asked = convert(
        source, tmp_path / "gptq.safetensors", Options(recipe="weight-only", rounding="gptq"), calibration=calibration
    )
    told = [warning for warning in asked.plan.warnings if "in place of gptq" in warning]
    assert bool(told) and ("rows seen" in " ".join(told) or "without detail" in " ".join(told))
    convert(
        source,
        tmp_path / "again.safetensors",
        Options(recipe="weight-only"),
        calibration=calibration,
        workers=1,
    )
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "auto.safetensors").read_bytes()
    if detail != "scales":
        convert(source, tmp_path / "plain.safetensors", Options(recipe="weight-only", rounding="nearest"))
        fresh = inputs(2048, 272, 77)
        error = {}
        for name in ("auto", "plain"):
            stored = load_file(tmp_path / f"{name}.safetensors")
            scales = nvfp4.unblocked_scales(stored["blocks.0.much.weight_scale"], (96, 272))
            found = nvfp4.decode_rows(
                stored["blocks.0.much.weight"], scales, stored["blocks.0.much.weight_scale_2"], 272
            )
            error[name] = output_error(found - weights["blocks.0.much.weight"], fresh)
        assert error["auto"] < (0.65 if detail == "curvature" else 0.9) * error["plain"]


def test_a_method_that_needs_a_calibration_falls_back_by_name() -> None:
    assert rounding_for("auto", None) == ("block-search", "")
    assert rounding_for("nearest", None) == ("nearest", "")
    method, why = rounding_for("gptq", None)
    assert method == "block-search" and why == "rounded by block-search in place of gptq: not calibrated"


def test_fp8_is_rounded_as_its_upcast_is() -> None:
    """GPTQ to the same bytes; the weighted search chooses exactly among 256 values, and by bins among floats."""
    calibration = calibrated(Two(), "curvature")
    stored = (Two().blocks[0]["much"].weight.detach() * 100).to(torch.float8_e4m3fn)  # type: ignore[index, operator, union-attr]
    statistics = calibration.layers["blocks.0.much"]
    importance = weighted.mean_square(statistics)
    weight = Weight("layer", stored, torch.tensor(0.01))
    plain = weight.rows(0, 96)
    bytes_of, error_of = {}, {}
    for name in ("weighted", "gptq"):
        encoding = Encoding(METHODS[name], statistics=statistics)
        for source in (weight, Weight("layer", plain)):
            found = nvfp4.encode(source, encoding)
            scales = nvfp4.unblocked_scales(found["weight_scale"], (96, 272))
            values = nvfp4.decode_rows(found["weight"], scales, found["weight_scale_2"], 272)
            bytes_of.setdefault(name, []).append(found["weight"])
            error_of.setdefault(name, []).append(float(((values - plain).double().square() * importance).sum()))
    assert torch.equal(*bytes_of["gptq"])
    assert error_of["weighted"][0] == pytest.approx(error_of["weighted"][1], rel=0.01)
