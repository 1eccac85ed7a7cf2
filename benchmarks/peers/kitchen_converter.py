"""ComfyUI_Kitchen_nvfp4_Converter: a ComfyUI node, started here without ComfyUI by `run_kitchen_node.py`."""

from __future__ import annotations

from pathlib import Path

from .peer import Installed, Peer

RUNNER = Path(__file__).parent / "scripts" / "run_kitchen_node.py"


def _node(installed: Installed, source: Path, target: Path) -> list[str]:
    return [str(installed.python), str(RUNNER), str(installed.clone), str(source), str(target)]


PEER = Peer(
    name="Kitchen_nvfp4_Converter",
    repository="tritant/ComfyUI_Kitchen_nvfp4_Converter",
    commit="f345db8d5886c08031d236a30e3bfa07547ed453",
    variants={"Qwen-Image-Edit-2511": _node},
    requirements=("comfy-kitchen", "packaging", "safetensors", "numpy"),
    note="a node, started without ComfyUI, whose own start would come on top",
)
