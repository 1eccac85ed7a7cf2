"""What a source says of its quantized layers: tags in tensors and in the header, and what the legacy marker amounts to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..calibration.prefixes import ALL_PREFIXES
from .errors import SourceError
from .source import Source

FP8_FORMATS: Mapping[str, str] = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""A tag's names of the FP8 dtypes."""
METADATA_KEY = "_quantization_metadata"
MARKER = "scaled_fp8"
MAX_TAG_BYTES = 65_536


def tags_of(source: Source) -> dict[str, Mapping[str, Any]]:
    """Every layer's tag; the header's entries replace those in tensors, as in the loader."""
    tags: dict[str, Mapping[str, Any]] = {}
    for name, info in source.tensors.items():
        if name.endswith(".comfy_quant"):
            if info.dtype != "U8" or info.nbytes > MAX_TAG_BYTES:
                raise SourceError(f"{source.path}: {name} is no tag ({info.dtype}, {info.nbytes} bytes).")
            tags[name[: -len(".comfy_quant")]] = _object(source, name, bytes(source.read(name).numpy().tobytes()))
    if METADATA_KEY in source.metadata:
        header = _object(source, METADATA_KEY, source.metadata[METADATA_KEY])
        entries = header.get("layers", {})
        if not isinstance(entries, dict):
            raise SourceError(f"{source.path}: {METADATA_KEY} lists no layers; the file is damaged.")
        for layer, tag in entries.items():
            if not isinstance(tag, dict):
                raise SourceError(f"{source.path}: {METADATA_KEY} has a malformed entry for {layer[:200]!r}.")
            tags[resolved(source, layer)] = tag
    return tags


def resolved(source: Source, layer: str) -> str:
    """The layer that a header entry means: some files name layers without the prefix that their keys carry (ComfyUI issue 11764)."""
    if f"{layer}.weight" not in source.tensors:
        for prefix in ALL_PREFIXES:
            if f"{prefix}{layer}.weight" in source.tensors:
                return prefix + layer
    return layer


class LegacyTags:
    """What ComfyUI derives for layers ``X.scale_weight`` below a marker ``<prefix>scaled_fp8``."""

    def __init__(self, source: Source):
        self._source = source
        markers = [name for name in source.tensors if name.rpartition(".")[2] == MARKER]
        self._elements = {name.removesuffix(MARKER): source.tensors[name].count for name in markers}
        # Few, however many parts a name has: looking below each of its parts takes minutes for a hostile one.
        self._lengths = sorted({len(prefix) for prefix in self._elements}, reverse=True)

    def of(self, layer: str) -> Mapping[str, Any] | None:
        """By the nearest marker above the layer; one of two elements means full-precision matrix multiplication."""
        tensors = self._source.tensors
        if f"{layer}.scale_weight" not in tensors or METADATA_KEY in self._source.metadata:
            return None
        above = (f"{layer}."[:length] for length in self._lengths)
        elements = next((self._elements[prefix] for prefix in above if prefix in self._elements), None)
        if elements is None:
            return None
        entry: dict[str, Any] = {"format": FP8_FORMATS.get(tensors[f"{layer}.weight"].dtype, "float8_e4m3fn")}
        return entry | ({"full_precision_matrix_mult": True} if elements == 2 else {})


def _object(source: Source, name: str, data: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{source.path}: {name} holds no JSON ({error}); the file is damaged.") from error
    if not isinstance(value, dict):
        raise SourceError(f"{source.path}: {name} holds {type(value).__name__} where a table is expected.")
    return value
