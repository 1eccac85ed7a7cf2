"""`sensitivity`, `verify --activations` and `kernels` as commands: files, words, JSON, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nvfp4_studio.calibration import Collector, save
from nvfp4_studio.converters.sensitivity import Probes, load, save_influence

Run = Callable[..., Any]
SHAPES = {"attn.proj": (64, 128), "mlp.0": (128, 128)}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    group: torch.nn.ModuleDict({name: torch.nn.Linear(shape[1], shape[0], bias=False)})
                    for key, shape in SHAPES.items()
                    for group, name in (key.split("."),)
                }
            )
            for _ in range(2)
        )

    def forward(self, values: torch.Tensor) -> None:
        for module in self.modules():
            if isinstance(module, torch.nn.Linear):
                module(values)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A checkpoint, a calibration with rows and one without."""
    folder, model = tmp_path_factory.mktemp("sensitivity"), Model()
    weights = {name: weight.detach().bfloat16() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    for detail in ("curvature", "scales"):
        collector = Collector(model, detail=detail)
        for step in range(4):
            with collector.observing(0.9 - 0.2 * step):
                model(torch.randn(256, 128, generator=torch.Generator().manual_seed(step)))
        save(collector.finish(images=1), folder / f"{detail}.safetensors")
    return folder / "model.safetensors", folder / "curvature.safetensors", folder / "scales.safetensors"


def test_it_writes_json_markdown_and_a_picture(run: Run, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    source, calibration, _ = files
    influence = tmp_path / "influence.json"
    save_influence({"blocks.0.attn.proj": Probes.of(0.5), "blocks.1.mlp.0": Probes.of(0.01, 3)}, influence)
    stem = tmp_path / "found"
    result = run(
        "sensitivity", source, "--calibration", calibration, "--out", stem, "--roundings", "nearest,four-over-six",
        "--formats", "nvfp4,float8_e4m3fn", "--timesteps", "early", "--kernels", "b200", "--influence", influence,
        "--device", "cpu",
    )  # fmt: skip
    assert result.status == 0, result.err
    for part in (
        "nvfp4/four-over-six",
        "EVERY LAYER IN ONE FORMAT",
        "predicted by the table b200",
        "blocks.N.attn.proj",
    ):
        assert part in result.out
    found = load(f"{stem}.json")
    assert (found.weighting, found.kernels, found.calibration) == ("early", "b200", "curvature")
    assert {outcome.choice.label for layer in found.layers for outcome in layer.outcomes} == {
        "keep",
        "nvfp4/nearest",
        "nvfp4/four-over-six",
        "float8_e4m3fn",
    }
    assert found.layer("blocks.1.attn.proj").influence == 0.5  # type: ignore[union-attr]
    assert "![Sensitivity of model.safetensors](found.png)" in (tmp_path / "found.md").read_text("utf-8")
    with Image.open(f"{stem}.png") as picture:
        assert picture.width == 1100 and picture.height > 500
    assert {path.name for path in tmp_path.iterdir()} == {"found.json", "found.md", "found.png", "influence.json"}


def test_json_is_the_file(run: Run, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    source, calibration, _ = files
    words = ("--formats", "mxfp8", "--device", "cpu", "--json")
    result = run("sensitivity", source, "--calibration", calibration, "--out", tmp_path / "s.json", *words)
    assert json.loads(result.out) == json.loads((tmp_path / "s.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--formats", "nvfp5"), "no format 'nvfp5'"),
        (("--roundings", "prettily"), "no rounding method 'prettily'"),
        (("--pre-quant", "0.5,much"), "numbers by commas"),
        (("--pre-quant", "2"), "exponent 2.0 of a pre_quant_scale"),
        (("--timesteps", "late"), "no weighting 'late'"),
        (("--kernels", "rtx-9090"), "no table of kernel speeds 'rtx-9090'"),
        (("--input-scale", "guess"), "no input_scale policy 'guess'"),
        (("--influence", "nowhere.json"), "influence nowhere.json cannot be read"),
        (("--out", "no/such/folder/s"), "folder no/such/folder does not exist"),
    ],
)
def test_a_wrong_word_is_refused(
    run: Run, files: tuple[Path, Path, Path], tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    source, calibration, _ = files
    result = run(
        "sensitivity", source, "--calibration", calibration, "--out", tmp_path / "s", "--device", "cpu", *words
    )
    assert result.status == 1 and sentence in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "s.json").exists()


def test_a_calibration_without_rows_is_refused(run: Run, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    source, _, without = files
    result = run("sensitivity", source, "--calibration", without, "--out", tmp_path / "s", "--device", "cpu")
    assert result.status == 1 and "calibrate with detail curvature" in result.err


def test_verify_computes_outputs_on_the_kept_rows(run: Run, files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    source, calibration, without = files
    target, page = tmp_path / "t.safetensors", tmp_path / "page.md"
    done = run("convert", source, target, "--recipe", "weight-only", "--calibration", calibration, "--device", "cpu")
    assert done.status == 0, done.err
    result = run("verify", source, target, "--activations", calibration, "--device", "cpu", "--markdown", page)
    assert result.status == 0
    for part in ("4 of 4 Linear layers quantized", "outputs on rows", "WORST BY LARGEST ERROR", "Grade B", "Good:"):
        assert part in result.out
    assert "| blocks.N.mlp.0 | nvfp4 | 2 |" in page.read_text("utf-8")
    refused = run("verify", source, target, "--activations", without, "--device", "cpu")
    assert refused.status == 1 and "kept no rows" in refused.err
    outputs = json.loads(run("verify", source, target, "--activations", calibration, "--json").out)["fidelity"]
    weights = json.loads(run("verify", source, target, "--json").out)["fidelity"]
    assert (outputs["of"], weights["of"]) == ("outputs", "weights")
    assert outputs["mean"]["largest"] > 0 and weights["mean"]["largest"] is None
    assert all(outputs["mean"][key] > 0 for key in ("mse", "rmse", "rel_rmse", "cosine"))


def test_layers_that_cannot_be_compared_are_json_all_the_same(
    run: Run, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Two files with the same layers in NVFP4, rounded in two ways."""
    targets = [tmp_path / f"{rounding}.safetensors" for rounding in ("nearest", "block-search")]
    for target in targets:
        more = ["--recipe", "weight-only", "--rounding", target.stem, "--device", "cpu"]
        assert run("convert", files[0], target, *more).status == 0
    result = run("verify", *targets, "--json")
    assert result.status == 1 and "nvfp4 already but differs" in result.err

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found = json.loads(result.out, parse_constant=refuse)
    assert found["worst_sqnr_db"] is None and found["fidelity"]["grade"] == "E"


def test_kernels_are_listed_with_their_sources(run: Run, tmp_path: Path) -> None:
    result = run("kernels")
    assert result.status == 0 and "rtx-5090" in result.out and "whitepaper" in result.out
    assert {table["name"] for table in json.loads(run("kernels", "--json").out)} >= {"rtx-5090", "b200"}
    refused = run("kernels", "--measure", tmp_path / "mine.txt")
    assert refused.status == 1 and "must end in .json" in refused.err
