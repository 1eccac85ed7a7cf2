"""Fidelity: a published table reproduced, outputs against float64, coverage, grades."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nvfp4_studio.benchmarks import weight_only_table
from nvfp4_studio.calibration import Calibration, Collector, markdown
from nvfp4_studio.converters import Options, convert, open_source
from nvfp4_studio.converters.fidelity import OUTPUTS, WEIGHTS, Coverage, Fidelity, LayerFidelity
from nvfp4_studio.converters.fidelity_page import fidelity_sections
from nvfp4_studio.converters.formats import FORMATS
from nvfp4_studio.converters.layers import recognise
from nvfp4_studio.converters.stored import decoder
from nvfp4_studio.converters.verify import verify_sources
from nvfp4_studio.converters.verify_outputs import output_fidelity, weight_fidelity

SHAPES = {"attn.proj": (64, 128), "mlp.0": (96, 128), "mlp.odd": (30, 128)}
RECIPE = {
    "block_names": ["blocks"],
    "rules": [{"policy": "nvfp4", "match": ["attn"]}, {"policy": "float8_e4m3fn", "match": ["mlp.0"]}],
}


def test_the_published_weight_only_table_is_that_of_nearest_rounding_and_our_default_is_closer(tmp_path: Path) -> None:
    """276 of 277 layers, mean relative RMSE 9.49 %, cosine 0.9954, 0.148 of the size."""
    source = tmp_path / "source.safetensors"
    weight_only_table.make(source, 64)
    nearest = weight_only_table.converted(source, tmp_path / "nearest.safetensors", "nearest")
    ours = weight_only_table.converted(source, tmp_path / "ours.safetensors", "auto")
    assert (nearest.quantized, nearest.linear, len(nearest.layers)) == (276, 277, 276)
    assert nearest.mean(lambda layer: layer.rel_rmse) == pytest.approx(0.0949, abs=0.001)
    assert nearest.mean(lambda layer: layer.cosine) == pytest.approx(0.9954, abs=0.0003)
    assert nearest.output_bytes / nearest.source_bytes == pytest.approx(396.62 / 2687.54, abs=0.03)
    assert ours.mean(lambda layer: layer.rel_rmse) < 0.085
    assert (nearest.grade(), ours.grade()) == ("C", "B")


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "attn": torch.nn.ModuleDict({"proj": torch.nn.Linear(128, 64, bias=False)}),
                    "mlp": torch.nn.ModuleDict(
                        {"0": torch.nn.Linear(128, 96, bias=False), "odd": torch.nn.Linear(128, 30, bias=False)}
                    ),
                }
            )
            for _ in range(2)
        )

    def forward(self, values: torch.Tensor) -> None:
        for name, module in self.named_modules():
            if isinstance(module, torch.nn.Linear) and "blocks.1.mlp.0" not in name:
                module(values)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Calibration]:
    """A source, its conversion with a calibration, and that; one FP8 layer never ran."""
    folder = tmp_path_factory.mktemp("fidelity")
    model, generator = Model(), torch.Generator().manual_seed(4)
    source, target, recipe = (folder / name for name in ("s.safetensors", "t.safetensors", "recipe.json"))
    save_file({name: weight.detach().bfloat16() for name, weight in model.state_dict().items()}, source)
    collector = Collector(model, detail="curvature")
    for _ in range(8):
        with collector.observing(0.5):
            model(torch.randn(512, 128, generator=generator) * torch.linspace(0.2, 4, 128))
    recipe.write_text(json.dumps(RECIPE))
    calibration = collector.finish(images=1)
    convert(source, target, Options(recipe=str(recipe)), calibration=calibration, device="cpu")
    return source, target, calibration


def found(files: tuple[Path, Path, Calibration]) -> Fidelity:
    source, target, calibration = files
    with open_source(source) as before, open_source(target) as after:
        return output_fidelity(before, after, calibration)


def test_outputs_are_compared_as_plain_float64_does(files: tuple[Path, Path, Calibration]) -> None:
    source, target, calibration = files
    layer = next(layer for layer in found(files).layers if layer.name == "blocks.1.attn.proj")
    reservoir = calibration.layers["blocks.1.attn.proj"].reservoir
    assert reservoir is not None
    rows, scale = reservoir.values(), float(load_file(target)["blocks.1.attn.proj.input_scale"])
    with open_source(target) as after:
        weight = decoder(after, recognise(after).layers["blocks.1.attn.proj"], (64, 128))(0, 64).double()
    wanted = rows.double() @ load_file(source)["blocks.1.attn.proj.weight"].double().T
    got = FORMATS["nvfp4"].quantized_input(rows, scale, {}).double() @ weight.T
    assert layer.mse == pytest.approx(float((wanted - got).square().mean()), rel=1e-4)
    assert layer.largest == pytest.approx(float((wanted - got).abs().amax()), rel=1e-4)
    assert layer.rel_rmse == pytest.approx(float((wanted - got).norm() / wanted.norm()), rel=1e-4)
    assert layer.cosine == pytest.approx(float((wanted * got).sum() / wanted.norm() / got.norm()), rel=1e-6)


def test_coverage_counts_all_layers_and_layers_without_rows_are_named(files: tuple[Path, Path, Calibration]) -> None:
    fidelity = found(files)
    assert {(kind.kind, kind.quantized, kind.layers) for kind in fidelity.coverage} == {
        ("blocks.N.attn.proj", 2, 2),
        ("blocks.N.mlp.0", 2, 2),
        ("blocks.N.mlp.odd", 0, 2),
    }
    assert (fidelity.quantized, fidelity.linear, fidelity.unmeasured) == (4, 6, ("blocks.1.mlp.0",))
    by_format = {layer.format: layer.rel_rmse for layer in fidelity.layers}
    assert by_format["float8_e4m3fn"] < 0.05 < by_format["nvfp4"]
    assert fidelity.grade() in "AB"
    page = markdown("t", fidelity_sections(fidelity))
    assert "4 of 6 Linear layers quantized" in page and "Worst by largest error" in page
    assert json.loads(json.dumps(fidelity.to_json(), allow_nan=False))["measured_layers"] == 3


def test_weights_and_outputs_tell_the_same_layers_quantized(
    files: tuple[Path, Path, Calibration], tmp_path: Path
) -> None:
    """FP8 that stays FP8 is quantized where its input is rounded, and not where it is computed in full precision."""
    tensors, calibration = load_file(files[0]), files[2]
    for name in [name for name in tensors if "mlp.0" in name]:
        tensors[name] = (tensors[name] * 100).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = torch.tensor(0.01)
    source, target, recipe = (tmp_path / name for name in ("s.safetensors", "t.safetensors", "recipe.json"))
    save_file(tensors, source)
    recipe.write_text(json.dumps(RECIPE))
    seen = {
        name: replace(layer, weight_samples=torch.empty(0)) if "mlp.0" in name else layer
        for name, layer in calibration.layers.items()
    }
    convert(source, target, Options(recipe=str(recipe)), calibration=replace(calibration, layers=seen), device="cpu")
    with open_source(source) as before, open_source(target) as after:
        weights = weight_fidelity(before, after, verify_sources(before, after).layers)
        outputs = output_fidelity(before, after, replace(calibration, layers=seen))
    assert weights.coverage == outputs.coverage and weights.quantized == outputs.quantized == 3
    assert (len(weights.layers), len(outputs.layers)) == (2, 3)
    assert "3 of 6 Linear layers quantized; weights alone, 2 differ" in markdown("t", fidelity_sections(weights))


@pytest.mark.parametrize(
    ("of", "rel_rmse", "grade"),
    [
        (WEIGHTS, 0.026, "A"),
        (WEIGHTS, 0.0815, "B"),
        (WEIGHTS, 0.0949, "C"),
        (WEIGHTS, 0.15, "D"),
        (WEIGHTS, 0.21, "E"),
        (OUTPUTS, 0.026 * math.sqrt(2), "A"),
        (OUTPUTS, 0.0815 * math.sqrt(2), "B"),
        (OUTPUTS, 0.0949 * math.sqrt(2), "C"),
        (OUTPUTS, float("nan"), "E"),
    ],
)
def test_the_grade_is_that_of_the_mean(of: str, rel_rmse: float, grade: str) -> None:
    assert fidelity_of(of, rel_rmse).grade() == grade


@pytest.mark.parametrize(
    ("of", "limits"),
    [(WEIGHTS, "A as FP8 up to 2.8%, B .* up to 9.0%"), (OUTPUTS, "A as FP8 up to 4.0%, B .* up to 12.7%")],
)
def test_the_limits_are_told_beside_the_grade(of: str, limits: str) -> None:
    found = fidelity_of(of, 0.05)
    assert re.search(f"Grade B, by the mean relative RMSE: {limits}", markdown("t", fidelity_sections(found)))
    assert found.to_json()["grades"]["B"] == pytest.approx(0.09 * (math.sqrt(2) if of == OUTPUTS else 1))


def test_one_broken_layer_is_an_e() -> None:
    assert fidelity_of(OUTPUTS, *[0.01] * 50, 0.6).grade() == "E"
    assert fidelity_of(WEIGHTS).grade() == "A"


def fidelity_of(of: str, *errors: float) -> Fidelity:
    layers = tuple(LayerFidelity("a", "a", "nvfp4", 0.1, None, error, 0.99) for error in errors)
    return Fidelity(of, layers, (), (Coverage("a", 1, 1),), 10, 5)
