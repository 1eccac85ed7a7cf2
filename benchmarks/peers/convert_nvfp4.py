"""convert_nvfp4: a script that chooses layers by patterns and presets."""

from __future__ import annotations

from pathlib import Path

from .peer import LAYERS, Installed, Peer


def _all(installed: Installed, source: Path, target: Path) -> list[str]:
    flags = ["--device", "cpu", "--mode", "all", "--no-input-scale", "--exclude", f"^(?!{LAYERS})"]
    return [str(installed.python), str(installed.clone / "convert_nvfp4.py"), str(source), str(target), *flags]


PEER = Peer(
    name="convert_nvfp4",
    repository="jorismak/convert_nvfp4",
    commit="c1415bb4ae6173af7637480466dacc16eb7c83c6",
    variants={"--mode all": _all},
    requirements=("safetensors", "numpy", "tqdm"),
)
