"""convert_to_quant: a command line for many formats."""

from __future__ import annotations

from pathlib import Path

from .peer import LAYERS, Installed, Peer


def _simple(installed: Installed, source: Path, target: Path) -> list[str]:
    flags = ["--nvfp4", "--simple", "--low-memory", "--comfy_quant", "--exclude-layers", f"^(?!{LAYERS})"]
    return [
        str(installed.python),
        "-m",
        "convert_to_quant.convert_to_quant",
        "-i",
        str(source),
        "-o",
        str(target),
        *flags,
    ]


PEER = Peer(
    name="convert_to_quant",
    repository="silveroxides/convert_to_quant",
    commit="ee83a4d90d18f52824c3b6b23e45bc7514fb027e",
    variants={"--nvfp4 --simple --low-memory": _simple},
    requirements=("comfy-kitchen", "packaging", "safetensors", "numpy", "tqdm", "prodigy-plus-schedule-free"),
    note="it also corrects biases by random inputs",
)
