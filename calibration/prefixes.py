"""Key prefixes of diffusion models: files have them, calibrations name layers without."""

from __future__ import annotations

from collections.abc import Iterable

PREFIXES = ("model.diffusion_model.", "model.model.", "net.")
"""ComfyUI's candidates, in its order (``model_detection.unet_prefix_from_state_dict``)."""
LAST_PREFIX = "model."
"""What it takes where none of them fits: the prefix of any other file whose keys all have it."""
ALL_PREFIXES = (*PREFIXES, LAST_PREFIX)


def shared_prefix(names: Iterable[str]) -> str:
    """The first of all prefixes that every name has with something behind it, "" for none."""
    names = list(names)
    fitting = (prefix for prefix in ALL_PREFIXES if all(name.startswith(prefix) and name != prefix for name in names))
    return next(fitting, "") if names else ""


def without_prefix(name: str) -> str:
    """A name of an all-in-one file without the prefix of a diffusion model, others as they are."""
    return name[len(next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")) :]
