# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""Write the random checkpoints that a test asks for: {"path": {"kind": "flux" | "all-in-one", ...}}."""

from __future__ import annotations

from pathlib import Path

from bootstrap import REQUEST, answer

from all_in_one_model import write_all_in_one
from small_models import write_flux

for target, wanted in REQUEST["models"].items():
    options = dict(wanted)
    kind = options.pop("kind")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if kind == "flux":
        write_flux(target, **options)
    else:
        write_all_in_one(target, **options)

answer(sizes={path: Path(path).stat().st_size for path in REQUEST["models"]})
