"""The convert node in the prompt queue of a real server, with each kind of cache."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import pytest
from safetensors import safe_open

DEFAULTS = {
    "calibration": "none",
    "recipe": "weight-only",
    "input_scale": "p99.9",
    "rounding": "four-over-six",
    "layout": "source",
    "output_name": "",
    "overwrite": False,
}


def convert_prompt(**inputs: Any) -> dict[str, Any]:
    return {"5": {"class_type": "NVFP4Convert", "inputs": {**DEFAULTS, **inputs}}}


def pressed(server: Any, **inputs: Any) -> dict[str, Any]:
    """The prompt that the button queues."""
    return convert_prompt(conversion_token=server.token("5"), **inputs)


def status_of(entry: dict[str, Any]) -> str:
    return "\n".join(entry["outputs"]["5"]["nvfp4_status"])


def failure_of(entry: dict[str, Any]) -> dict[str, Any]:
    return next(data for kind, data in entry["status"]["messages"] if kind == "execution_error")


def files(server: Any) -> list[str]:
    return sorted(str(path.relative_to(server.base)) for path in (server.base / "output").rglob("*") if path.is_file())


def test_an_ordinary_run_converts_nothing(server: Any) -> None:
    entry = server.run(convert_prompt(source="diffusion_models/flux.safetensors", output_name="ordinary"))
    assert entry["status"]["status_str"] == "success"
    assert "does not convert" in status_of(entry)
    assert not any("ordinary" in name for name in files(server))


def test_the_button_converts_and_the_file_is_listed_at_once(server: Any) -> None:
    prompt = pressed(server, source="diffusion_models/flux.safetensors")
    prompt["6"] = {"class_type": "NVFP4Convert", "inputs": {**DEFAULTS, "source": "checkpoints/aio.safetensors"}}
    before = server.options("UNETLoader", "unet_name")
    entry = server.run(prompt, targets=["5"])
    assert entry["status"]["status_str"] == "success", failure_of(entry)
    assert list(entry["outputs"]) == ["5"]
    text = status_of(entry)
    assert "flux-nvfp4.safetensors" in text and "NVFP4" in text and "dB SQNR, worst" in text and "% of" in text
    assert "flux-nvfp4.safetensors" in set(server.options("UNETLoader", "unet_name")) - set(before)
    assert "output/diffusion_models/flux-nvfp4.report.json" in files(server)
    with safe_open(server.base / "output/diffusion_models/flux-nvfp4.safetensors", "pt") as converted:
        layers = json.loads(converted.metadata()["_quantization_metadata"])["layers"]
    assert "nvfp4" in {layer["format"] for layer in layers.values()}


def test_a_spent_or_foreign_token_does_nothing(server: Any) -> None:
    prompt = pressed(server, source="diffusion_models/flux.safetensors", output_name="spent")
    server.run(prompt, targets=["5"])
    path = server.base / "output/diffusion_models/spent.safetensors"
    path.unlink()
    prompt["5"]["inputs"]["recipe"] = "auto"
    assert server.run(prompt, targets=["5"])["status"]["status_str"] == "success"
    assert not path.exists()
    for token in (server.token("6"), "guessed", 7, None):
        inputs = {"source": "diffusion_models/flux.safetensors", "output_name": "spent", "conversion_token": token}
        server.run(convert_prompt(**inputs), targets=["5"])
        assert not path.exists()


def test_an_ordinary_run_afterwards_shows_the_earlier_result(server: Any) -> None:
    inputs = {"source": "diffusion_models/flux.safetensors", "output_name": "again"}
    server.run(convert_prompt(**inputs))
    converted = status_of(server.run(pressed(server, **inputs), targets=["5"]))
    assert status_of(server.run(convert_prompt(**inputs))) == converted


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(server: Any) -> None:
    inputs = {"source": "diffusion_models/flux.safetensors", "output_name": "kept"}
    server.run(pressed(server, **inputs), targets=["5"])
    path = server.base / "output/diffusion_models/kept.safetensors"
    before = path.stat().st_ino
    entry = server.run(pressed(server, **inputs, rounding="nearest"), targets=["5"])
    assert entry["status"]["status_str"] == "error" and "kept.safetensors" in failure_of(entry)["exception_message"]
    assert path.stat().st_ino == before
    entry = server.run(pressed(server, **inputs, overwrite=True), targets=["5"])
    assert entry["status"]["status_str"] == "success" and path.stat().st_ino != before


def test_the_same_conversion_is_not_done_twice(server: Any) -> None:
    inputs = {"source": "diffusion_models/flux.safetensors", "output_name": "once"}
    first = server.run(pressed(server, **inputs), targets=["5"])
    path = server.base / "output/diffusion_models/once.safetensors"
    before = path.stat().st_ino
    again = server.run(pressed(server, **inputs), targets=["5"])
    assert status_of(again) == status_of(first) and path.stat().st_ino == before


def test_two_sources_of_one_name_are_not_taken_for_one(server: Any) -> None:
    models = server.base / "models" / "diffusion_models"
    for folder in ("first", "second"):
        (models / folder).mkdir()
        shutil.copy2(models / "flux.safetensors", models / folder / "model.safetensors")
    first = server.run(pressed(server, source="diffusion_models/first/model.safetensors"), targets=["5"])
    assert first["status"]["status_str"] == "success", failure_of(first)
    path = server.base / "output/diffusion_models/model-nvfp4.safetensors"
    before = path.stat().st_ino
    entry = server.run(pressed(server, source="diffusion_models/second/model.safetensors"), targets=["5"])
    assert "model-nvfp4.safetensors exists already" in failure_of(entry)["exception_message"]
    assert path.stat().st_ino == before


def test_cancel_stops_within_two_seconds_and_leaves_no_file(server: Any) -> None:
    before = files(server)
    answer = server.queue(pressed(server, source="diffusion_models/large.safetensors"), targets=["5"])
    folder = server.base / "output/diffusion_models"
    end = time.monotonic() + 60
    while not [path for path in folder.iterdir() if path.name.endswith(".part")]:
        assert time.monotonic() < end, server.tail()
        time.sleep(0.02)
    started = time.monotonic()
    server.request("/interrupt", {})
    entry = server.finish(answer)
    assert time.monotonic() - started < 2
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds and "execution_error" not in kinds
    assert files(server) == before
    assert list(folder.glob(".*")) == []


def test_an_all_in_one_file_goes_to_the_checkpoints(server: Any) -> None:
    entry = server.run(pressed(server, source="checkpoints/aio.safetensors", recipe="auto"), targets=["5"])
    assert entry["status"]["status_str"] == "success", failure_of(entry)
    assert "aio-nvfp4.safetensors" in server.options("CheckpointLoaderSimple", "ckpt_name")
    entry = server.run(
        pressed(server, source="checkpoints/aio.safetensors", recipe="auto", layout="diffusion-model"), targets=["5"]
    )
    assert entry["status"]["status_str"] == "success", failure_of(entry)
    assert "aio-nvfp4.safetensors" in server.options("UNETLoader", "unet_name")


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/tmp/escaped",
        "C:\\escaped",
        "\\\\host\\share\\x",
        "a/../../escaped",
        "nul",
        "COM1.x",
        "a\0b",
        "x:y",
    ],
)
@pytest.mark.parametrize("widget", ["output_name", "source", "calibration", "recipe"])
def test_hostile_names_are_refused_before_anything_runs(classic_server: Any, widget: str, name: str) -> None:
    inputs = {"source": "diffusion_models/flux.safetensors", widget: name}
    status, answer = classic_server.queue(pressed(classic_server, **inputs), targets=["5"])
    assert status == 400 and "Custom validation failed" in json.dumps(answer)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"source": "diffusion_models/missing.safetensors"}, "There is no checkpoint"),
        ({"source": "loras/flux.safetensors"}, "There is no checkpoint"),
        ({"source": "diffusion_models/flux.safetensors", "calibration": "absent"}, "There is no calibration 'absent'"),
        ({"source": "diffusion_models/flux.safetensors", "recipe": "my/absent"}, "There is no recipe 'absent'"),
        ({"source": "diffusion_models/flux.safetensors", "recipe": "absent"}, "There is no recipe 'absent'"),
    ],
)
def test_missing_files_are_one_clear_sentence(classic_server: Any, inputs: dict[str, str], said: str) -> None:
    assert classic_server.run(convert_prompt(**inputs))["status"]["status_str"] == "success"
    entry = classic_server.run(pressed(classic_server, **inputs), targets=["5"])
    assert said in failure_of(entry)["exception_message"]


def test_a_name_from_another_node_is_checked_when_it_is_there(classic_server: Any) -> None:
    prompt = pressed(classic_server, source="diffusion_models/flux.safetensors", output_name=["6", 0])
    prompt["6"] = {"class_type": "PrimitiveString", "inputs": {"value": "../escaped"}}
    entry = classic_server.run(prompt, targets=["5"])
    assert "escaped" in failure_of(entry)["exception_message"]


def test_a_link_out_of_the_output_folder_is_refused(classic_server: Any) -> None:
    folder = classic_server.base / "output/diffusion_models"
    folder.mkdir(exist_ok=True, parents=True)
    outside = classic_server.base / "linked"
    outside.mkdir()
    link = folder / "link"
    link.symlink_to(outside, target_is_directory=True)
    inputs = {"source": "diffusion_models/flux.safetensors", "output_name": "link/x"}
    entry = classic_server.run(pressed(classic_server, **inputs), targets=["5"])
    link.unlink()
    assert "leads out of" in failure_of(entry)["exception_message"]
    assert list(outside.iterdir()) == []
