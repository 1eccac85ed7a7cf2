"""nvfp4-studio, from this checkout, with the interpreter that runs the benchmark."""

from __future__ import annotations

from pathlib import Path

from .peer import LAYERS, Command, Installed, Peer

RECIPE = {
    "title": "Every linear layer of the blocks in NVFP4.",
    "block_names": [LAYERS],
    "rules": [{"policy": "nvfp4", "match": [""]}],
}
DEFAULT = "default (block-search)"
"""What `auto` comes to without a calibration."""


def _with(rounding: str) -> Command:
    def command(installed: Installed, source: Path, target: Path) -> list[str]:
        recipe = installed.configuration("recipe.json", RECIPE)
        arguments = [str(source), str(target), "--recipe", recipe, "--rounding", rounding, "--device", "cpu"]
        return [str(installed.python), "-m", "nvfp4_studio.cli.main", "convert", *arguments]

    return command


PEER = Peer(
    name="nvfp4-studio",
    repository="",
    commit="",
    variants={DEFAULT: _with("auto"), "four-over-six": _with("four-over-six"), "nearest": _with("nearest")},
    note="its time includes hashing the source, verifying the written file and the report with plots",
)
