"""What the converted file tells of itself: sizes, layers, how it was made, where ComfyUI loads it from."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...converters.families import component, detect_family
from ...converters.formats import convrot_w4a4, nvfp4, w4a8_int8
from ...converters.layers import recognise
from ...converters.planning.passthrough import PROVENANCE_KEY
from ..text import one_line, size

if TYPE_CHECKING:
    from ...converters import Source

LICENSE_KEYS = ("license", "modelspec.license", "licence", "modelspec.licence")
MADE_TEXTS = ("version", "source", "family", "recipe", "rounding", "input_scale", "text_encoder")
UNKNOWN = "unknown"
MAX_TEXT = 300
HALVED = (nvfp4.NAME, convrot_w4a4.NAME, w4a8_int8.NAME)
"""Formats that hold two weights in a byte."""
CHECKPOINT = {
    "loader": "Load Checkpoint",
    "folder": "models/checkpoints",
    "also": "The file brings what else the model needs.",
}
DIFFUSION_MODEL = {
    "loader": "Load Diffusion Model",
    "folder": "models/diffusion_models",
    "also": "Leave weight_dtype at default. Text encoder and VAE are loaded from their own files, as with the source.",
}


def describe_file(source: Source) -> dict[str, Any]:
    """{"name", "bytes", "size", "tensors", "family", "family_title", "layers", "made", "license", "loading"}."""
    family = detect_family(source.tensors)
    return {
        "name": source.path.name,
        "bytes": source.size,
        "size": size(source.size),
        "tensors": len(source.tensors),
        "family": family.name,
        "family_title": family.title,
        "layers": _layers(source, family.prefix),
        "made": _made(source.metadata),
        "license": next(
            (one_line(source.metadata[key], MAX_TEXT) for key in LICENSE_KEYS if source.metadata.get(key)), None
        ),
        "loading": CHECKPOINT if _all_in_one(source, family.prefix) else DIFFUSION_MODEL,
    }


def _layers(source: Source, prefix: str) -> dict[str, Any]:
    """Linear layers of the diffusion model: how many there are, in which formats, with which share of the weights."""
    found = [
        layer for layer in recognise(source).layers.values() if component(layer.weight, prefix) == "diffusion_model"
    ]
    counts, weights = Counter(layer.format for layer in found), Counter[str]()
    for layer in found:
        weights[layer.format] += (2 if layer.format in HALVED else 1) * math.prod(layer.shape)
    total = max(1, sum(weights.values()))
    return {
        "total": len(found),
        "quantized": sum(layer.tag is not None for layer in found),
        "nvfp4": counts["nvfp4"],
        "with_input_scale": sum(layer.input_scale is not None for layer in found),
        "formats": [
            {"format": name, "layers": count, "percent_of_weights": round(100 * weights[name] / total, 2)}
            for name, count in counts.most_common()
        ],
    }


def _made(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """How nvfp4-studio made it, as the header says; None for files of other converters."""
    try:
        found = json.loads(metadata.get(PROVENANCE_KEY, ""))
    except (ValueError, RecursionError):
        return None
    return describe_making(found) if isinstance(found, dict) else None


def describe_making(found: Mapping[str, Any]) -> dict[str, Any]:
    """What nvfp4-studio wrote into a header, as far as it is what it would write; anybody can change a header."""
    pins = found.get("recipe_content")
    layers = pins.get("layers") if isinstance(pins, dict) else None
    return {
        **{key: _said(found.get(key)) for key in MADE_TEXTS},
        "calibration": _said(found["calibration"]) if found.get("calibration") else None,
        "source_sha256": _table(found.get("source_sha256"), str) or None,
        "rounding_planned": _table(found.get("rounding_planned"), int),
        "pinned_layers": len(layers) if isinstance(layers, dict) else 0,
    }


def _said(value: object) -> str:
    return one_line(value, MAX_TEXT) if isinstance(value, str) and value else UNKNOWN


def _table(value: object, kind: type) -> dict[str, Any]:
    """Entries of this kind, by name; what the header holds else is left out."""
    return {name: one for name, one in value.items() if type(one) is kind} if isinstance(value, dict) else {}


def _all_in_one(source: Source, prefix: str) -> bool:
    parts = {component(name, prefix) for name in source.tensors}
    return "text_encoder" in parts or any(name.startswith(("first_stage_model.", "vae.")) for name in source.tensors)
