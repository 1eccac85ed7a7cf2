"""Calibrating through prompts, as a user does: loader, calibrate, sampler, with each kind of cache."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from safetensors import safe_open


def generate_prompt(seed: int, name: str | None, mode: str = "accumulate") -> dict[str, Any]:
    """Load Checkpoint -> (NVFP4 Calibrate) -> KSampler -> Save Latent, and the report after it."""
    model = ["1", 0] if name is None else ["2", 0]
    prompt: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "aio.safetensors"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["1", 1]}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "model": model, "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0],
            },
        },
        "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": f"latent-{name}-{seed}"}},
    }  # fmt: skip
    if name is not None:
        prompt["2"] = {"class_type": "NVFP4Calibrate", "inputs": {"model": ["1", 0], "name": name, "mode": mode}}
        prompt["7"] = {"class_type": "NVFP4CalibrationReport", "inputs": {"calibration": name, "after": ["5", 0]}}
    return prompt


def report(entry: dict[str, Any]) -> str:
    return str(entry["outputs"]["7"]["nvfp4_status"][0])


def test_images_are_equal_with_and_without_calibration(server: Any) -> None:
    for name in (None, "equal"):
        assert server.run(generate_prompt(1, name))["status"]["status_str"] == "success"
    plain, watched = (next((server.base / "output").glob(f"latent-{name}-1*")) for name in ("None", "equal"))
    assert plain.read_bytes()[-2048:] == watched.read_bytes()[-2048:]


def test_samplings_accumulate_over_prompts(server: Any) -> None:
    texts = [report(server.run(generate_prompt(seed, "adding"))) for seed in (1, 2)]
    assert texts[0].startswith("adding: 2 images, 3 steps, ") and texts[1].startswith("adding: 4 images, 6 steps, ")
    assert "largest amax" in texts[1] and "Noise schedule seen: " in texts[1]
    assert "adding" in server.options("NVFP4Convert", "calibration")


def test_a_cached_sampler_adds_nothing(server: Any, request: pytest.FixtureRequest) -> None:
    for _ in range(2):
        entry = server.run(generate_prompt(3, "cached"))
    kind = request.node.callspec.params["server"]
    again = server.run(generate_prompt(4, "cached"))
    assert report(again).startswith("cached: 6 images" if kind == "--cache-none" else "cached: 4 images")
    assert entry["status"]["status_str"] == "success"


def test_restart_begins_anew_in_every_prompt(server: Any) -> None:
    for seed in (1, 2):
        text = report(server.run(generate_prompt(seed, "anew", "restart")))
    assert text.startswith("anew: 2 images, 3 steps, ")


def test_the_report_has_a_plot(server: Any) -> None:
    entry = server.run(generate_prompt(5, "plotted"))
    image = entry["outputs"]["7"]["images"][0]
    assert (server.base / "temp" / image["filename"]).read_bytes().startswith(b"\x89PNG")


def test_the_report_compares_with_another_calibration(classic_server: Any) -> None:
    classic_server.run(generate_prompt(1, "original"))
    prompt = generate_prompt(1, "merged")
    prompt["7"]["inputs"]["compare_with"] = "original"
    entry = classic_server.run(prompt)
    assert "merged against original: inputs are in the median about equal (1.00 times)" in report(entry)
    prompt["7"]["inputs"]["compare_with"] = "nowhere"
    prompt["5"]["inputs"]["seed"] = 2
    refused = classic_server.run(prompt)
    assert refused["status"]["status_str"] == "error" and "There is no calibration 'nowhere'" in json.dumps(refused)
    prompt["7"]["inputs"]["compare_with"] = "../escaped"
    assert list(classic_server.queue(prompt)[1]["node_errors"]) == ["7"]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/x", "C:x", "con", ""])
def test_hostile_calibration_names_are_refused(classic_server: Any, name: str) -> None:
    assert classic_server.queue(generate_prompt(1, name))[0] == 400


def test_another_model_is_refused_with_its_difference(classic_server: Any) -> None:
    classic_server.run(generate_prompt(1, "model"))
    prompt = generate_prompt(1, "model")
    prompt["1b"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "flux.safetensors", "weight_dtype": "default"},
    }
    prompt["2"]["inputs"]["model"] = ["1b", 0]
    entry = classic_server.run(prompt)
    failure = next(data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    named = failure["exception_message"].partition("is of another model: ")[2].partition(" differences in all")[0]
    assert len(named.split("; ")) == 3, failure["exception_message"]


def test_a_killed_server_loses_the_running_sampling_only(start_server: Any) -> None:
    server = start_server("--cache-classic")
    try:
        server.run(generate_prompt(1, "killed"))
        endless = generate_prompt(2, "killed")
        endless["5"]["inputs"]["steps"] = 5000
        server.queue(endless)
        end = time.monotonic() + 60
        while "/5000" not in server.tail():
            assert time.monotonic() < end, server.tail()
            time.sleep(0.1)
    finally:
        server.process.kill()
        server.process.wait()
    folder = server.base / "models" / "nvfp4_calibration"
    assert [path.name for path in folder.iterdir()] == ["killed.safetensors"]
    with safe_open(folder / "killed.safetensors", "pt") as kept:
        held = json.loads(kept.metadata()["calibration"])
    assert (held["samplings"], held["images"], held["steps"]) == (1, 2, 3)
