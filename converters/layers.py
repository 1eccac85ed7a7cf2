"""Recognise how each weight of a source is stored: plain, raw-cast FP8, scaled FP8 of today or of old.

Three forms of scaled FP8 exist in ComfyUI's world:

* today's: ``X.weight`` (FP8), ``X.weight_scale``, optional ``X.input_scale``, and a tag, either as a
  uint8 tensor ``X.comfy_quant`` holding JSON or as an entry of the header's ``_quantization_metadata``
  (where both exist the loader lets the header win, and so does this module);
* the legacy one: a marker tensor ``<prefix>scaled_fp8``, ``X.scale_weight``, ``X.scale_input``;
* scales without any tag, left behind by tools that lost the metadata.

An FP8 weight without a scale is a raw cast: its values are meant as they stand (scale 1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SourceError
from .source import Source

FP8_FORMATS: Mapping[str, str] = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
PLAIN_FORMATS: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
METADATA_KEY = "_quantization_metadata"
MARKER = "scaled_fp8"
COMPANIONS = (
    "comfy_quant",
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "pre_quant_scale",
    "scale_weight",
    "scale_input",
)
"""Suffixes of the tensors that describe a quantized weight and never outlive it."""
MAX_TAG_BYTES = 65_536


@dataclass(frozen=True)
class SourceLayer:
    """One two-dimensional ``.weight`` and what the source says about its storage.

    ``format`` is ComfyUI's name for quantized weights (``float8_e4m3fn``, ``nvfp4`` …) and the
    dtype's name otherwise. ``scale`` and ``input_scale`` are tensor names, None where absent.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    format: str
    scale: str | None
    input_scale: str | None
    tag: Mapping[str, Any] | None
    full_precision: bool

    @property
    def weight(self) -> str:
        return f"{self.name}.weight"

    @property
    def is_fp8(self) -> bool:
        return self.format in FP8_FORMATS.values()

    @property
    def is_plain(self) -> bool:
        return self.format in PLAIN_FORMATS.values()


@dataclass(frozen=True)
class Recognised:
    """What a source holds besides plain tensors.

    ``layers`` are the two-dimensional weights; ``descriptions`` the tensors that only describe the
    quantization of a layer or of nothing (stale) and never reach the output as they are; ``carried``
    the tags of quantized weights of other ranks (expert banks, convolutions), kept verbatim.
    """

    layers: Mapping[str, SourceLayer]
    descriptions: frozenset[str]
    carried: Mapping[str, Mapping[str, Any]]

    def weights(self) -> list[str]:
        """The names of all two-dimensional weight tensors."""
        return [layer.weight for layer in self.layers.values()]


def recognise(source: Source) -> Recognised:
    """Recognise every quantized weight of a source.

    Raises:
        SourceError: a tag that cannot be read, or a tag that contradicts the stored dtype.
    """
    tensors = source.tensors
    tags = _tags(source)
    layers: dict[str, SourceLayer] = {}
    described = {name for name in tensors if name.rpartition(".")[2] in (*COMPANIONS, MARKER)}
    markers = {name[: -len(MARKER)]: tensors[name] for name in described if name.rpartition(".")[2] == MARKER}
    for name, info in tensors.items():
        if not name.endswith(".weight") or len(info.shape) != 2:
            continue
        layer = name[: -len(".weight")]
        tag = tags.get(layer)
        scale = _first(tensors, f"{layer}.weight_scale", f"{layer}.scale_weight")
        stored = FP8_FORMATS.get(info.dtype) or PLAIN_FORMATS.get(info.dtype) or info.dtype.lower()
        full_precision = bool(tag and tag.get("full_precision_matrix_mult", False))
        if tag is None and f"{layer}.scale_weight" in tensors:
            marker = max((prefix for prefix in markers if layer.startswith(prefix)), key=len, default=None)
            full_precision = marker is not None and markers[marker].shape == (2,)
        if tag is not None:
            stored = _checked_format(source, layer, tag, stored)
        elif info.dtype == "U8" and f"{layer}.weight_scale_2" in tensors:
            stored = "nvfp4"
        layers[layer] = SourceLayer(
            name=layer,
            shape=(info.shape[0], info.shape[1]),
            dtype=info.dtype,
            format=stored,
            scale=scale if stored not in PLAIN_FORMATS.values() else None,
            input_scale=_input_scale(source, layer),
            tag=tag,
            full_precision=full_precision,
        )
    other_ranks = {name[: -len(".weight")] for name, info in tensors.items() if name.endswith(".weight")} - set(layers)
    carried = {layer: tag for layer, tag in tags.items() if layer in other_ranks}
    kept = {name for name in described if name.rpartition(".")[0] in other_ranks}
    return Recognised(layers, frozenset(described - kept), carried)


def _first(tensors: Mapping[str, Any], *names: str) -> str | None:
    return next((name for name in names if name in tensors), None)


def _input_scale(source: Source, layer: str) -> str | None:
    """The tensor with the layer's input_scale. A legacy scale of 1.0 means "none", and the loader drops it too."""
    legacy = f"{layer}.scale_input"
    if f"{layer}.input_scale" in source.tensors:
        return f"{layer}.input_scale"
    if legacy not in source.tensors or source.tensors[legacy].shape not in ((), (1,)):
        return None
    return None if float(source.read(legacy)) == 1.0 else legacy


def _checked_format(source: Source, layer: str, tag: Mapping[str, Any], stored: str) -> str:
    named = tag.get("format")
    if not isinstance(named, str):
        raise SourceError(
            f"{source.path}: the tag of layer {layer} names no format: {str(tag)[:80]}; it cannot be read."
        )
    if (named in FP8_FORMATS.values() or stored in FP8_FORMATS.values()) and named != stored and named != "mxfp8":
        raise SourceError(
            f"{source.path}: layer {layer} is tagged {named[:40]} but stored as {stored}; its metadata is stale, "
            "get the file from its author again."
        )
    return named


def _tags(source: Source) -> dict[str, Mapping[str, Any]]:
    """Every layer's tag; the header's entries replace those in tensors, as in the loader."""
    tags: dict[str, Mapping[str, Any]] = {}
    for name, info in source.tensors.items():
        if name.endswith(".comfy_quant"):
            if info.dtype != "U8" or info.nbytes > MAX_TAG_BYTES:
                raise SourceError(f"{source.path}: {name} is no tag ({info.dtype}, {info.nbytes} bytes).")
            tags[name[: -len(".comfy_quant")]] = _object(source, name, bytes(source.read(name).numpy().tobytes()))
    if METADATA_KEY in source.metadata:
        header = _object(source, METADATA_KEY, source.metadata[METADATA_KEY].encode())
        entries = header.get("layers", {})
        if not isinstance(entries, dict):
            raise SourceError(f"{source.path}: {METADATA_KEY} lists no layers; the file is damaged.")
        for layer, tag in entries.items():
            if not isinstance(tag, dict):
                raise SourceError(f"{source.path}: {METADATA_KEY} has a malformed entry for {layer[:200]}.")
            tags[_verbatim_or_prefixed(source, layer)] = tag
    return tags


def _verbatim_or_prefixed(source: Source, layer: str) -> str:
    """Some files name layers without the prefix that their keys carry (ComfyUI issue 11764)."""
    if f"{layer}.weight" not in source.tensors:
        for prefix in ("model.diffusion_model.", "model.model.", "net.", "model."):
            if f"{prefix}{layer}.weight" in source.tensors:
                return prefix + layer
    return layer


def _object(source: Source, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{source.path}: {name} holds no JSON ({error}); the file is damaged.") from error
    if not isinstance(value, dict):
        raise SourceError(f"{source.path}: {name} holds {type(value).__name__} where a table is expected.")
    return value
