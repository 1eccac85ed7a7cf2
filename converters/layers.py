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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SourceError
from .source import Source, TensorInfo
from .tags import FP8_FORMATS, MARKER, LegacyTags, tags_of

PLAIN_FORMATS: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
COMPANIONS = (
    "comfy_quant",
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "pre_quant_scale",
    "weight_s_rel",
    "weight_s_channel",
    "weight_codebook",
    "scale_weight",
    "scale_input",
)
"""Suffixes of the tensors that describe a quantized weight and never outlive it."""
LEGACY_NAMES = {"scale_weight": "weight_scale", "scale_input": "input_scale"}
BLOCK_SCALES = "weight_scale_inv"
"""Suffix of block-wise FP8 scales, which neither ComfyUI nor nvfp4-studio reads."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "nvfp4": ("weight_scale", "weight_scale_2"),
    "mxfp8": ("weight_scale",),
    "int8_tensorwise": ("weight_scale",),
    "convrot_w4a4": ("weight_scale",),
    "asym_w4a8_int8": ("weight_s_rel", "weight_s_channel"),
}
"""Formats that are left as they are where a source has them, each with what ComfyUI refuses to load it without."""


@dataclass(frozen=True)
class SourceLayer:
    """One two-dimensional ``.weight`` and what the source says about its storage.

    ``format`` is ComfyUI's name for quantized weights (``float8_e4m3fn``, ``nvfp4`` …) and the
    dtype's name otherwise. ``scale`` and ``input_scale`` are tensor names, None where absent;
    ``companions`` all tensors that describe the weight, tags apart.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    format: str
    scale: str | None
    input_scale: str | None
    tag: Mapping[str, Any] | None
    full_precision: bool
    companions: tuple[str, ...]

    @property
    def described(self) -> bool:
        """True when anything but the dtype says that this weight is quantized."""
        return self.tag is not None or bool(self.companions)

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
class Carried:
    """A quantized weight that is not a matrix (expert bank, convolution): it keeps its bytes, scales and tag."""

    tag: Mapping[str, Any] | None
    companions: tuple[str, ...]


@dataclass(frozen=True)
class Recognised:
    """What a source holds besides plain tensors.

    ``layers`` are the two-dimensional weights of a float or quantized format; ``carried`` the quantized
    weights of other ranks; ``descriptions`` all tensors that only describe a quantization, also that of
    nothing (stale): they reach the output only through the layer that they describe.
    """

    layers: Mapping[str, SourceLayer]
    carried: Mapping[str, Carried]
    descriptions: frozenset[str]

    def weights(self) -> list[str]:
        """The names of all two-dimensional weight tensors."""
        return [layer.weight for layer in self.layers.values()]


def todays_name(name: str) -> str:
    """A companion's name today: ``X.scale_weight`` is now ``X.weight_scale``, ``X.scale_input`` ``X.input_scale``."""
    layer, _, suffix = name.rpartition(".")
    return f"{layer}.{LEGACY_NAMES.get(suffix, suffix)}"


def recognise(source: Source) -> Recognised:
    """Recognise every quantized weight of a source.

    Raises:
        SourceError: a tag that cannot be read or contradicts the stored dtype, or a scale under two names.
    """
    return source.remembered("layers", lambda: _recognised(source))


def _recognised(source: Source) -> Recognised:
    tensors = source.tensors
    tags, legacy = tags_of(source), LegacyTags(source)
    companions: dict[str, list[str]] = {}
    descriptions = set()
    for name in tensors:
        layer, _, suffix = name.rpartition(".")
        if suffix in (*COMPANIONS, MARKER):
            descriptions.add(name)
            if suffix not in ("comfy_quant", MARKER):
                companions.setdefault(layer, []).append(name)
    layers: dict[str, SourceLayer] = {}
    carried: dict[str, Carried] = {}
    for name, info in tensors.items():
        if not name.endswith(".weight"):
            continue
        layer = name[: -len(".weight")]
        own = tuple(_kept_companions(source, companions.get(layer, [])))
        _refuse_twins(source, layer, own)
        tag = tags[layer] if layer in tags else legacy.of(layer)
        described = tag is not None or bool(own)
        if len(info.shape) == 2 and (described or info.dtype in FP8_FORMATS or info.dtype in PLAIN_FORMATS):
            layers[layer] = _layer(source, layer, info, tag if layer in tags else None, tag, own)
        elif described:
            carried[layer] = Carried(tag, own)
    return Recognised(layers, carried, frozenset(descriptions))


def _layer(
    source: Source,
    name: str,
    info: TensorInfo,
    tag: Mapping[str, Any] | None,
    meant: Mapping[str, Any] | None,
    companions: tuple[str, ...],
) -> SourceLayer:
    """``tag`` is today's, ``meant`` also what the legacy form amounts to."""
    stored = FP8_FORMATS.get(info.dtype) or PLAIN_FORMATS.get(info.dtype) or info.dtype.lower()
    if tag is not None:
        stored = _checked_format(source, name, tag, stored)
    elif info.dtype == "U8" and f"{name}.weight_scale_2" in companions:
        stored = "nvfp4"
    scale = next((key for key in companions if todays_name(key) == f"{name}.weight_scale"), None)
    return SourceLayer(
        name=name,
        shape=(info.shape[0], info.shape[1]),
        dtype=info.dtype,
        format=stored,
        scale=scale if stored not in PLAIN_FORMATS.values() else None,
        input_scale=_input_scale(source, name, companions),
        tag=tag,
        full_precision=bool(meant and meant.get("full_precision_matrix_mult", False)),
        companions=companions,
    )


def _kept_companions(source: Source, names: list[str]) -> list[str]:
    """Without legacy input scales of 1.0, which mean "none" (the loader drops them too)."""
    return [
        name
        for name in names
        if not (name.endswith(".scale_input") and source.tensors[name].count == 1 and float(source.read(name)) == 1.0)
    ]


def _refuse_twins(source: Source, layer: str, companions: tuple[str, ...]) -> None:
    """No layer has the same scale under its names of today and of old: which one counts cannot be known."""
    seen: dict[str, str] = {}
    for name in companions:
        twin = seen.setdefault(todays_name(name), name)
        if twin != name:
            raise SourceError(
                f"{source.path}: layer {layer} has both {_suffix(twin)} and {_suffix(name)}, of which only one can count; "
                "two releases were mixed, get the file from its author again."
            )


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]


def _input_scale(source: Source, layer: str, companions: tuple[str, ...]) -> str | None:
    """The tensor with the layer's input_scale, under its name of today or of old."""
    name = next((key for key in companions if todays_name(key) == f"{layer}.input_scale"), None)
    if name is not None and source.tensors[name].count != 1:
        raise SourceError(
            f"{source.path}: {name} has {source.tensors[name].count} values where one is expected; it is damaged."
        )
    return name


def _checked_format(source: Source, layer: str, tag: Mapping[str, Any], stored: str) -> str:
    named = tag.get("format")
    if not isinstance(named, str):
        raise SourceError(
            f"{source.path}: the tag of layer {layer[:200]!r} names no format: {str(tag)[:80]}; it cannot be read."
        )
    if (named in FP8_FORMATS.values() or stored in FP8_FORMATS.values()) and named != stored and named != "mxfp8":
        raise SourceError(
            f"{source.path}: layer {layer} is tagged {named[:40]!r} but stored as {stored}; its metadata is stale, "
            "get the file from its author again."
        )
    return named
