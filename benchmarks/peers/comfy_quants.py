"""comfy-quants: a command line with a contract of tensors for each model."""

from __future__ import annotations

from pathlib import Path

from .peer import Installed, Peer


def _export(installed: Installed, source: Path, target: Path) -> list[str]:
    config = str(installed.clone / "configs" / "qwen_image_2512_nvfp4.yaml")
    arguments = ["--config", config, "--source", str(source), "--out", str(target), "--device", "cpu"]
    return [str(installed.python), "-m", "comfy_quants.cli.main", "export-model-nvfp4", *arguments]


PEER = Peer(
    name="comfy-quants",
    repository="Comfy-Org/comfy-quants",
    commit="55f0a267f177d5536c5b5673ced2bd9ff9191bd0",
    variants={"export-model-nvfp4": _export},
    requirements=("comfy-kitchen", "packaging", "safetensors", "numpy", "PyYAML"),
    sources="src",
    note="takes Qwen-Image with all its 60 blocks only",
)
