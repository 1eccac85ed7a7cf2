"""comfy-dit-quantizer: a script driven by a JSON file of rules."""

from __future__ import annotations

from pathlib import Path

from .peer import LAYERS, Command, Installed, Peer

CONFIG = {
    "format": "comfy_quant",
    "block_names": [LAYERS],
    "rules": [{"policy": "nvfp4", "match": [LAYERS]}],
}


def with_method(method: str) -> Command:
    """A call with one of its methods: amax, mse, percentile or 4/6."""

    def command(installed: Installed, source: Path, target: Path) -> list[str]:
        script = str(installed.clone / "quantize.py")
        config = installed.configuration("config.json", CONFIG)
        return [str(installed.python), script, config, str(source), str(target), "-m", method, "-q"]

    return command


PEER = Peer(
    name="comfy-dit-quantizer",
    repository="bedovyy/comfy-dit-quantizer",
    commit="24c0333fe66eb1eb3327397b08be727789c7b643",
    variants={"-m amax": with_method("amax"), "-m 4/6": with_method("4/6")},
    requirements=("comfy-kitchen", "packaging", "safetensors", "numpy", "scipy"),
    note="the commit before its newest, b89c8a7, in which NVFP4 stops with an UnboundLocalError",
)
