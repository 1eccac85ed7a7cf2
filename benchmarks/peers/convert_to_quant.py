"""convert_to_quant: a command line for many formats."""

from __future__ import annotations

from pathlib import Path

from .peer import LAYERS, Command, Installed, Peer


def with_flags(*flags: str) -> Command:
    """A call for NVFP4 as ComfyUI reads it, of the layers that everybody converts, with further flags."""
    fixed = ["--nvfp4", "--low-memory", "--comfy_quant", "--exclude-layers", f"^(?!{LAYERS})"]

    def command(installed: Installed, source: Path, target: Path) -> list[str]:
        module = [str(installed.python), "-m", "convert_to_quant.convert_to_quant"]
        return [*module, "-i", str(source), "-o", str(target), *fixed, *flags]

    return command


PEER = Peer(
    name="convert_to_quant",
    repository="silveroxides/convert_to_quant",
    commit="ee83a4d90d18f52824c3b6b23e45bc7514fb027e",
    variants={"--nvfp4 --simple --low-memory": with_flags("--simple")},
    requirements=("comfy-kitchen", "packaging", "safetensors", "numpy", "tqdm", "prodigy-plus-schedule-free"),
    note="it also corrects biases by random inputs",
)
