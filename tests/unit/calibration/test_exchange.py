from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nvfp4_studio.calibration import (
    Calibration,
    CalibrationError,
    activation_range,
    export_json,
    import_json,
    load,
    save,
)

Sampled = Callable[[list[tuple[int, float]]], Calibration]


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)
    return path


def entry(amax: float, count: int = 3) -> dict[str, float]:
    return {"amax": amax, "p99_9": amax / 2, "std": 0.1, "min": 1e-6, "max": amax, "count": count}


def test_the_flat_form(tmp_path: Path) -> None:
    found = import_json(written(tmp_path, {"blocks.0.q": 284.0, "blocks.0.mlp.2": 3136}))
    assert {name: layer.amax for name, layer in found.layers.items()} == {"blocks.0.q": 284.0, "blocks.0.mlp.2": 3136.0}
    layer = found.layers["blocks.0.q"]
    assert (layer.calls, int(layer.call_amax.sum()), layer.elements, layer.in_features) == (1, 1, 0, 0)
    assert activation_range(layer).amax == 568.0
    assert (found.steps, found.samplings) == (0, 0)


def test_the_detailed_form_counts_every_noise_bin(tmp_path: Path) -> None:
    content = {
        "layers": {
            "blocks.2.q_bin0": entry(4.0),
            "blocks.2.q_bin5": entry(32.0, 7),
            "blocks.2_bin1.k_bin2": entry(2.5),
        },
        "sigma_ranges": {"132563769525120": {"min": 0.003, "max": 1.0}},
    }
    found = import_json(written(tmp_path, content)).layers
    assert set(found) == {"blocks.2.q", "blocks.2_bin1.k"}
    assert (found["blocks.2.q"].amax, found["blocks.2.q"].calls) == (32.0, 10)
    schedule = found["blocks.2.q"].schedule_amax[0]
    assert schedule[15] == 4.0 and schedule[0] == 32.0 and schedule[8] == 0.0


def test_element_policies_say_what_is_missing(tmp_path: Path) -> None:
    layer = import_json(written(tmp_path, {"a": 1.0})).layers["a"]
    with pytest.raises(CalibrationError, match="choose p99.9 or max"):
        activation_range(layer, "elements-p99.99", name="a")


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "model.model.", "model.", "net."])
def test_a_prefix_of_all_layers_is_removed(tmp_path: Path, prefix: str) -> None:
    found = import_json(written(tmp_path, {f"{prefix}blocks.0": 1.0, f"{prefix}blocks.1": 2.0}))
    assert list(found.layers) == ["blocks.0", "blocks.1"]
    kept = import_json(written(tmp_path, {f"{prefix}blocks.0": 1.0, "blocks.1": 2.0}))
    assert list(kept.layers) == sorted([f"{prefix}blocks.0", "blocks.1"])


def test_an_import_survives_the_store_and_merges(tmp_path: Path, sampled: Sampled) -> None:
    imported = import_json(written(tmp_path, {"blocks.0.to_q": 1000.0, "other": 2.0}))
    save(imported, tmp_path / "c.safetensors")
    assert load(tmp_path / "c.safetensors").same_as(imported)
    merged = sampled([(1, 0.5)]).merged(imported)
    assert merged.layers["blocks.0.to_q"].amax == 1000.0
    assert merged.layers["blocks.0.to_q"].in_features == 32


def test_flat_export_and_back(tmp_path: Path, sampled: Sampled) -> None:
    calibration = sampled([(1, 0.5), (2, 0.1)])
    export_json(calibration, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content == {name: layer.amax for name, layer in calibration.layers.items()}
    back = import_json(tmp_path / "out.json").layers
    assert {name: layer.amax for name, layer in back.items()} == content


def test_detailed_export_and_back(tmp_path: Path, sampled: Sampled) -> None:
    calibration = sampled([(3, 0.99), (2, 0.0)])
    export_json(calibration, tmp_path / "out.json", "detailed")
    content = json.loads((tmp_path / "out.json").read_text())
    assert set(content) == {"layers", "sigma_ranges"}
    assert set(content["layers"]) == {f"{name}_bin{noise}" for name in calibration.layers for noise in (0, 5)}
    found = content["layers"]["blocks.0.to_q_bin0"]
    assert set(found) == {"amax", "p99_9", "std", "min", "max", "count"}
    assert found["amax"] == calibration.layers["blocks.0.to_q"].schedule_amax[0, 15]
    assert 0 < found["min"] < found["std"] < found["p99_9"] <= found["amax"] == found["max"]
    back = import_json(tmp_path / "out.json").layers
    assert {name: layer.amax for name, layer in back.items()} == {
        name: layer.amax for name, layer in calibration.layers.items()
    }


def test_the_exported_deviation_is_close_to_the_real_one(tmp_path: Path) -> None:
    from nvfp4_studio.calibration import observe
    from nvfp4_studio.tests.unit.calibration.single_layer import LayerObserver

    values = torch.randn(8192, 64, generator=torch.Generator().manual_seed(0)) * 3
    observer = LayerObserver(torch.device("cpu"))
    seen = observe(values)
    assert seen is not None
    observer.observe(seen, torch.arange(16) == 15)
    export_json(Calibration(layers={"a": observer.finish(64, 8)}), tmp_path / "out.json", "detailed")
    found = json.loads((tmp_path / "out.json").read_text())["layers"]["a_bin0"]
    assert found["std"] == pytest.approx(float(values.std()), rel=0.02)


def test_a_layer_without_noise_levels_is_exported_as_bin_0(tmp_path: Path) -> None:
    imported = import_json(written(tmp_path, {"a": 5.0}))
    export_json(imported, tmp_path / "out.json", "detailed")
    assert json.loads((tmp_path / "out.json").read_text())["layers"]["a_bin0"]["amax"] == 5.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ([1, 2], "no JSON object"),
        ({}, "holds no layer"),
        ({"layers": {}}, "holds no layer"),
        ({"a": "1.0"}, "amax of 'a' is '1.0'"),
        ({"a": True}, "amax of 'a' is True"),
        ({"a": -1.0}, "amax of 'a' is -1.0"),
        ('{"a": NaN}', "amax of 'a' is nan"),
        ('{"a": 1e999}', "amax of 'a' is inf"),
        ({"a": 1e300}, "no float32"),
        ({"a": 10**400}, "amax of 'a'"),
        ({"": 1.0}, r"\(0 characters\) is no layer"),
        ({"a\x1b[2J": 1.0}, "is no layer's name"),
        ({"x" * 5000: 1.0}, r"\(5000 characters\) is no layer"),
        ({"layers": {"a": {"amax": 1.0}}}, "not of the form"),
        ({"layers": {"a_bin6": {"amax": 1.0}}}, "not of the form"),
        ({"layers": {"a_bin0": 1.0}}, "not of the form"),
        ({"layers": {"a_bin0": {}}}, "amax of 'a' is None"),
        ({"layers": {"a_bin0": {"amax": 1.0, "count": 0}}}, "count of 'a' is 0"),
        ({"layers": {"a_bin0": {"amax": 1.0, "count": 2**62}}}, "no number of calls"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        import_json(written(tmp_path, content))


def test_wrong_requests_are_refused(tmp_path: Path, sampled: Sampled) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        import_json(tmp_path / "absent.json")
    with pytest.raises(CalibrationError, match="Unknown form 'csv'; choose one of flat, detailed"):
        export_json(sampled([(1, 0.5)]), tmp_path / "out.csv", "csv")
    with pytest.raises(CalibrationError, match="nothing to export"):
        export_json(Calibration(), tmp_path / "out.json")
