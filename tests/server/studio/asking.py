"""Asking the studio's routes, and the prompts that its page queues."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

from nvfp4_studio.calibration import BINS, SCHEDULE_BINS, Calibration, LayerStatistics, bin_index, save
from nvfp4_studio.converters import open_source
from nvfp4_studio.converters.layers import recognise

FLUX = "diffusion_models/flux.safetensors"
AIO = "checkpoints/aio.safetensors"


def get(server: Any, path: str) -> Any:
    status, answer = server.request(f"/nvfp4_studio/{path}")
    assert status == 200, answer
    return answer


def post(server: Any, path: str, **body: Any) -> Any:
    status, answer = server.request(f"/nvfp4_studio/{path}", body)
    assert status == 200, answer
    return answer


def calibrate(server: Any, name: str, samplings: int = 12) -> Path:
    """A calibration of the Flux as the calibrate node would leave it: every layer of the blocks seen."""
    path = server.base / "models" / "nvfp4_calibration" / f"{name}.safetensors"
    histogram = torch.zeros(BINS, dtype=torch.int64)
    histogram[int(bin_index(torch.tensor(2.0)))] = 64  # calls, and blocks of 16 elements
    layers = {}
    with open_source(server.base / "models" / FLUX) as source:
        for layer in recognise(source).layers.values():
            if "blocks." in layer.name:
                rows, columns = layer.shape
                layers[layer.name] = LayerStatistics(
                    columns,
                    rows,
                    64,
                    64 * 256,
                    1024,
                    0,
                    2.0,
                    histogram,
                    histogram,
                    16 * histogram,
                    torch.full((2, 16), 2.0),
                )
    schedule = torch.full((2, SCHEDULE_BINS), 8, dtype=torch.int64)
    save(Calibration(layers, {}, samplings, samplings, 64, schedule), path)
    return path


def picture(server: Any, path: str) -> tuple[int, str, bytes]:
    with urllib.request.urlopen(f"{server.url}/nvfp4_studio/{path}", timeout=60) as response:
        return response.status, response.headers["Content-Type"], response.read()


def press(server: Any, name: str, **inputs: Any) -> tuple[int, Any]:
    """The prompt that the page queues."""
    asked = {
        "source": "diffusion_models/large.safetensors", "calibration": "none", "recipe": "weight-only",
        "input_scale": "p99.9", "rounding": "auto", "layout": "source", "output_name": name, "overwrite": False,
        "conversion_token": server.token("5"), **inputs,
    }  # fmt: skip
    answer: tuple[int, Any] = server.queue({"5": {"class_type": "NVFP4Convert", "inputs": asked}}, targets=["5"])
    return answer


def converted(server: Any, name: str, **inputs: Any) -> str:
    """The id of a file converted by the node."""
    entry = server.finish(press(server, name, source=FLUX, **inputs))
    assert entry["status"]["status_str"] == "success", entry["status"]
    return f"diffusion_models/{name}.safetensors"


def sampling_prompt(seed: int, name: str = "kept-rows") -> dict[str, Any]:
    """Three steps of the all-in-one file that keep inputs of its layers."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "aio.safetensors"}},
        "2": {
            "class_type": "NVFP4Calibrate",
            "inputs": {"model": ["1", 0], "name": name, "mode": "accumulate", "detail": "curvature"},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["1", 1]}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "model": ["2", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0],
            },
        },
        "7": {"class_type": "SaveLatent", "inputs": {"samples": ["6", 0], "filename_prefix": "latent"}},
    }  # fmt: skip
