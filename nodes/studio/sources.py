"""Step 1: which checkpoints there are, and what the header of one tells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...calibration.errors import StudioError
from ...converters import Family, Source, detect_family, make_plan
from ...converters.families import component
from ...converters.layers import Recognised, recognise
from .. import checkpoints
from ..guard import Refused
from .cache import FileCache
from .fields import name_in
from .headers import opened

LOADERS = {"checkpoints": ("CheckpointLoaderSimple", "ckpt_name"), "diffusion_models": ("UNETLoader", "unet_name")}
"""Folder key -> the standard loader of its files and the widget that names the file."""
VALUES_A_BYTE = {"nvfp4": 2, "convrot_w4a4": 2, "asym_w4a8_int8": 2}
"""Formats that pack several values into a byte of the weight."""
_descriptions: FileCache[dict[str, Any]] = FileCache(1024)
"""Each is a dozen values. With less room than a user has checkpoints, those would always be gone that come next."""


def listed(_: Mapping[str, Any]) -> dict[str, Any]:
    """Every checkpoint with its size; ``problem`` says why one cannot be asked about."""
    return {"sources": [entry for source in checkpoints.sources() if (entry := _entry(source)) is not None]}


def _entry(source: str) -> dict[str, Any] | None:
    try:
        stat = checkpoints.inner_source_path(source).stat()
    except StudioError as error:
        return {"id": source, "bytes": 0, "modified_ns": 0, "problem": str(error)}
    except OSError:  # gone since it was listed
        return None
    return {"id": source, "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "problem": None}


def described(body: Mapping[str, Any]) -> dict[str, Any]:
    """``{"id"}`` -> family, stored formats, default recipe, and whether it can be converted.

    A file that is there but cannot be read is an answer as well: ``convertible`` false, and ``problem`` says why.
    """
    source = name_in(body, "id")

    def read() -> tuple[dict[str, Any], Iterable[Path]]:
        with opened(source) as checkpoint:
            return _description(checkpoint), (checkpoint.path, *checkpoint.files)

    try:
        description = _descriptions.get(source, read)
    except Refused as refused:
        description = {"convertible": False, "problem": str(refused)}
    return {"id": source, **description, "loader": loader(source)}


def loader(source: str) -> dict[str, str]:
    """The node that opens a file, its widget and the widget's value, which has the separators of the system."""
    folder, _, name = source.partition("/")
    class_type, widget = LOADERS[folder]
    return {"class_type": class_type, "widget": widget, "value": str(Path(name))}


def _description(source: Source) -> dict[str, Any]:
    recognised = recognise(source)
    family = detect_family(source.tensors)
    inside = [
        layer for layer in recognised.layers.values() if component(layer.weight, family.prefix) == "diffusion_model"
    ]
    problem = _problem(source)
    return {
        "bytes": source.size,
        "modified_ns": max(file.stat().st_mtime_ns for file in source.files),
        "family": family.name,
        "family_title": family.title,
        "prefix": family.prefix,
        "all_in_one": any(component(name, family.prefix) != "diffusion_model" for name in source.tensors),
        "diffusers": source.diffusers or family.name == "diffusers",
        "formats": dict(Counter(layer.format for layer in inside).most_common()),
        "layers": len(inside),
        "parameters": _parameters(source, recognised, family),
        "default_recipe": family.default_recipe,
        "convertible": problem is None,
        "problem": problem,
    }


def _parameters(source: Source, recognised: Recognised, family: Family) -> int:
    """Values of the diffusion model, scales and tags of quantized weights not counted."""
    packed = {layer.weight: VALUES_A_BYTE.get(layer.format, 1) for layer in recognised.layers.values()}
    return sum(
        math.prod(info.shape) * packed.get(name, 1)
        for name, info in source.tensors.items()
        if name not in recognised.descriptions and component(name, family.prefix) == "diffusion_model"
    )


def _problem(source: Source) -> str | None:
    """Why a conversion with all defaults would be refused, None when it would not."""
    try:
        make_plan(source)
    except StudioError as error:
        return str(error)
    return None
