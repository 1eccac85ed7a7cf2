"""The two forms of ComfyUI's quantization metadata, always written with identical content."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

FORMAT_VERSION = "1.0"


def tag(format_name: str, full_precision: bool, fields: Mapping[str, object] | None = None) -> dict[str, object]:
    """What ComfyUI reads for one layer; ``fields`` are the format's own.

    ``full_precision_matrix_mult`` is written only when true, as ComfyUI's own files do.
    """
    entry: dict[str, object] = {"format": format_name, **(fields or {})}
    if full_precision:
        entry["full_precision_matrix_mult"] = True
    return entry


def encode(entry: Mapping[str, object]) -> bytes:
    """The bytes of a ``.comfy_quant`` tensor (uint8)."""
    return json.dumps(entry, separators=(",", ":")).encode()


def tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def header(entries: Mapping[str, Mapping[str, object]]) -> str:
    """The value of the header's ``_quantization_metadata``."""
    return json.dumps({"format_version": FORMAT_VERSION, "layers": entries}, separators=(",", ":"))
