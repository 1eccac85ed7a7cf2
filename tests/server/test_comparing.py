"""The compare nodes on a real server with the demo model: their figures are those of the pictures that two ordinary
KSampler runs save."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nvfp4_studio.converters.pictures import haarpsi, ssim

NAMES = ("source", "nearest")
SAMPLING = {"seed": 5, "steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
BATCH = 3


def inputs(**sampling: Any) -> dict[str, Any]:
    """Loaders 1 and 2, text 3, latent 4, VAE 5, and the compare node 6."""
    node = {"positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], **SAMPLING, **sampling}
    return {
        **{
            str(number): {
                "class_type": "UNETLoader",
                "inputs": {"unet_name": f"{name}.safetensors", "weight_dtype": "default"},
            }
            for number, name in enumerate(NAMES, start=1)
        },
        "3": {"class_type": "DigitsTextEncode", "inputs": {"text": "3"}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": BATCH}},
        "5": {"class_type": "DigitsVAE", "inputs": {}},
        "6": {
            "class_type": "NVFP4Compare",
            "inputs": {"source": ["1", 0], "converted": ["2", 0], "vae": ["5", 0], **node},
        },
    }


def ksampler(which: str) -> dict[str, Any]:
    """The same picture in ComfyUI's own nodes."""
    prompt = {key: node for key, node in inputs().items() if key in (which, "3", "4", "5")}
    sampling = {"positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], **SAMPLING}
    return {
        **prompt,
        "10": {"class_type": "KSampler", "inputs": {"model": [which, 0], **sampling}},
        "11": {"class_type": "VAEDecode", "inputs": {"samples": ["10", 0], "vae": ["5", 0]}},
        "12": {"class_type": "SaveImage", "inputs": {"images": ["11", 0], "filename_prefix": f"plain-{which}"}},
        "13": {"class_type": "SaveLatent", "inputs": {"samples": ["10", 0], "filename_prefix": f"plain-{which}"}},
    }


def succeeded(entry: dict[str, Any]) -> dict[str, Any]:
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry["outputs"]


def error_of(entry: dict[str, Any]) -> str:
    return next(data for kind, data in entry["status"]["messages"] if kind == "execution_error")["exception_message"]


def pictures(server: Any, saved: list[dict[str, str]]) -> torch.Tensor:
    """The PNG files as uint8 [B, H, W, 3]."""
    folders = {"output": server.base / "output", "temp": server.base / "temp"}
    paths = [folders[file["type"]] / file["subfolder"] / file["filename"] for file in saved]
    return torch.from_numpy(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]))


@pytest.fixture(scope="module")
def plain(digits: Any) -> list[dict[str, Any]]:
    """Pictures and latents of two KSampler runs."""
    found = []
    for which in ("1", "2"):
        outputs = succeeded(digits.run(ksampler(which)))
        (latent,) = outputs["13"]["latents"]
        tensors = load_file(digits.base / "output" / latent["subfolder"] / latent["filename"])
        found.append({"pictures": pictures(digits, outputs["12"]["images"]), "latent": tensors["latent_tensor"]})
    return found


@pytest.fixture(scope="module")
def compared(digits: Any) -> dict[str, Any]:
    """What the node answered, with its outputs shown by core nodes."""
    prompt = inputs()
    for number in range(1, 5):
        prompt[f"2{number}"] = {"class_type": "PreviewAny", "inputs": {"source": ["6", number]}}
    prompt["30"] = {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "sheet"}}
    prompt["31"] = {"class_type": "SaveImage", "inputs": {"images": ["6", 6], "filename_prefix": "handed-on"}}
    return succeeded(digits.run(prompt))


def test_its_pictures_are_those_of_ksampler_to_the_last_bit(
    digits: Any, plain: list[dict[str, Any]], compared: dict[str, Any]
) -> None:
    (slider,) = compared["6"]["nvfp4_slider"]
    for side, expected in zip(("first", "second"), plain, strict=True):
        assert torch.equal(pictures(digits, slider[side]), expected["pictures"])
    assert torch.equal(pictures(digits, compared["31"]["images"]), plain[1]["pictures"])
    assert all(
        re.fullmatch(r"nvfp4_compare_a_[0-9a-f]{8}_\d+_\.png", saved["filename"]) for saved in slider["first"]
    ), "names of an earlier start of the server would show its pictures in a page that is still open"
    assert slider["names"] == list(NAMES) and [entry["number"] for entry in slider["pictures"]] == [1, 2, 3]


def test_its_figures_follow_from_the_saved_files(plain: list[dict[str, Any]], compared: dict[str, Any]) -> None:
    first, second = (run["pictures"] for run in plain)
    (found,) = compared["6"]["nvfp4_comparison"]
    errors = (first.double() - second.double()).square().mean(dim=(1, 2, 3))
    expected = {
        "psnr": [10 * math.log10(255**2 / float(error)) for error in errors],
        "ssim": ssim(first, second).tolist(),
        "haarpsi": haarpsi(first, second).tolist(),
    }
    for name, values in expected.items():
        assert [pair[name] for pair in found["pictures"]] == pytest.approx(values, rel=1e-12)
        assert found["summary"][name] == pytest.approx(sum(values) / BATCH, rel=1e-12)
    shown = [float(compared[f"2{number}"]["text"][0]) for number in (2, 3, 4)]
    assert shown == pytest.approx([found["summary"][name] for name in expected], rel=1e-9)
    assert found["settings"] == SAMPLING and found["names"] == list(NAMES)


def test_its_latent_error_follows_from_the_saved_latents(plain: list[dict[str, Any]], compared: dict[str, Any]) -> None:
    first, second = (run["latent"].double().flatten(1) for run in plain)
    latents = compared["6"]["nvfp4_comparison"][0]["latents"]
    assert latents["final"] == pytest.approx(((second - first).norm(dim=1) / first.norm(dim=1)).tolist(), rel=1e-9)
    assert [step["step"] for step in latents["steps"]] == list(range(SAMPLING["steps"]))
    # The last step of Euler ends on the prediction itself.
    assert latents["steps"][-1]["relative_rms"] == pytest.approx(latents["final"], rel=0.1)


def test_sheet_and_text_hold_what_the_json_says(digits: Any, compared: dict[str, Any]) -> None:
    sheet = pictures(digits, compared["30"]["images"])
    assert sheet.shape[0] == 1 and sheet.shape[1] > sheet.shape[2] > 600
    text, (found,) = compared["21"]["text"][0], compared["6"]["nvfp4_comparison"]
    for pair in found["pictures"]:
        assert f"{pair['psnr']:.2f} | {pair['ssim']:.4f} | {pair['haarpsi']:.4f}" in text
    layers = found["hardware"]["second"]["formats"]["nvfp4"]
    assert layers["emulated"] == layers["total"] > 0
    assert "full precision" in text and "full precision" in compared["6"]["nvfp4_status"][0]


def test_ready_pictures_are_compared_without_a_model(digits: Any) -> None:
    def image(level: int, size: int = 32) -> dict[str, Any]:
        return {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": 32, "batch_size": 2, "color": level * 0x010101},
        }

    def prompt(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        node = {"class_type": "NVFP4CompareImages", "inputs": {"source_images": ["1", 0], "converted_images": ["2", 0]}}
        return {"1": first, "2": second, "3": node}

    (found,) = succeeded(digits.run(prompt(image(100), image(110))))["3"]["nvfp4_comparison"]
    assert [pair["psnr"] for pair in found["pictures"]] == pytest.approx([20 * math.log10(25.5)] * 2)
    assert found["latents"] is None and found["difference_gain"] == 20
    (same,) = succeeded(digits.run(prompt(image(7), image(7))))["3"]["nvfp4_comparison"]
    assert same["summary"] == {
        "psnr": None, "ssim": pytest.approx(1), "haarpsi": pytest.approx(1), "pairs": 2, "equal": 2, "worst": 0,
    }  # fmt: skip
    refused = digits.run(prompt(image(7), image(7, size=48)))
    assert "2 pictures of 32 x 32, 3 channels cannot be compared with 2 pictures of 48 x 32" in error_of(refused)


def test_without_a_vae_latents_are_compared_and_pictures_are_refused(digits: Any, compared: dict[str, Any]) -> None:
    prompt = inputs()
    del prompt["6"]["inputs"]["vae"]
    outputs = succeeded(digits.run(prompt))
    (found,), (with_vae,) = outputs["6"]["nvfp4_comparison"], compared["6"]["nvfp4_comparison"]
    assert found["pictures"] == [] and found["summary"] is None and "nvfp4_slider" not in outputs["6"]
    assert found["latents"]["steps"] == with_vae["latents"]["steps"]
    prompt["7"] = {"class_type": "SaveImage", "inputs": {"images": ["6", 5], "filename_prefix": "none"}}
    outputs = succeeded(digits.run(prompt))
    assert "7" not in outputs and "Connect a VAE" in outputs["6"]["nvfp4_status"][0]


def test_models_with_different_schedules_are_no_fair_pair_and_the_node_says_so(digits: Any) -> None:
    prompt = inputs()
    shifted = {"max_shift": 1.15, "base_shift": 0.5, "width": 1024, "height": 1024, "model": ["2", 0]}
    prompt["9"] = {"class_type": "ModelSamplingFlux", "inputs": shifted}
    prompt["6"]["inputs"]["converted"] = ["9", 0]
    outputs = succeeded(digits.run(prompt))
    assert "different noise schedules" in outputs["6"]["nvfp4_status"][0]


def test_cancel_leaves_nothing_and_the_next_run_is_right(digits: Any, compared: dict[str, Any]) -> None:
    def files() -> set[Path]:
        return {path for folder in ("temp", "output") for path in (digits.base / folder).rglob("*") if path.is_file()}

    before, queued = files(), digits.queue(inputs(steps=4000))
    while not digits.request("/queue")[1]["queue_running"]:
        time.sleep(0.05)
    time.sleep(1)
    digits.request("/interrupt", {})
    status = digits.finish(queued)["status"]
    assert "execution_interrupted" in [kind for kind, _ in status["messages"]]
    assert files() == before
    prompt = inputs()
    prompt["6"]["inputs"]["seed"] = 6
    succeeded(digits.run(prompt))
    prompt["6"]["inputs"]["seed"] = SAMPLING["seed"]
    (again,) = succeeded(digits.run(prompt))["6"]["nvfp4_comparison"]
    assert again["pictures"] == compared["6"]["nvfp4_comparison"][0]["pictures"]
