"""Two models calibrated by one workflow: each has a file of its own, the same as from a workflow of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def branch(first: int, checkpoint: str, name: str) -> dict[str, Any]:
    """Load Checkpoint -> NVFP4 Calibrate -> KSampler -> Save Latent, in nodes numbered from ``first``."""
    loader, text, latent, calibrate, sampler, save = (str(first + step) for step in range(6))
    return {
        loader: {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        text: {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": [loader, 1]}},
        latent: {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        calibrate: {
            "class_type": "NVFP4Calibrate",
            "inputs": {"model": [loader, 0], "name": name, "mode": "accumulate"},
        },
        sampler: {
            "class_type": "KSampler",
            "inputs": {
                "seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "model": [calibrate, 0], "positive": [text, 0], "negative": [text, 0], "latent_image": [latent, 0],
            },
        },
        save: {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": name}},
    }  # fmt: skip


def test_nothing_is_mixed(classic_server: Any, server_models: Path) -> None:
    base = classic_server.base
    os.link(server_models / "spare" / "shallower.safetensors", base / "models" / "checkpoints" / "other.safetensors")
    prompts = [
        {**branch(10, "aio.safetensors", "together-a"), **branch(20, "other.safetensors", "together-b")},
        branch(10, "aio.safetensors", "alone-a"),
        branch(20, "other.safetensors", "alone-b"),
    ]
    for prompt in prompts:
        entry = classic_server.run(prompt)
        assert entry["status"]["status_str"] == "success", entry["status"]
    folder = base / "models" / "nvfp4_calibration"
    for letter in "ab":
        together, alone = (folder / f"{kind}-{letter}.safetensors" for kind in ("together", "alone"))
        assert together.read_bytes() == alone.read_bytes()
    assert (folder / "alone-a.safetensors").read_bytes() != (folder / "alone-b.safetensors").read_bytes()
