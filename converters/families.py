"""Which model a checkpoint holds, told from key names and shapes, and which weights must never be packed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..calibration.prefixes import LAST_PREFIX, PREFIXES
from .encoder_signatures import ENCODER_NOT_LINEAR, QUANTIZED_ENCODERS, TEXT_ENCODERS
from .signatures import NOT_LINEAR, SIGNATURES, WITHOUT_RECIPE, Signature
from .source import TensorInfo

TEXT_ENCODER_PREFIXES = ("text_encoders.", "cond_stage_model.", "conditioner.")
OTHER_PREFIXES = ("vae.", "first_stage_model.", "vocoder.", "audio_vae.", "clip_vision.")


@dataclass(frozen=True)
class Family:
    """What was recognised.

    ``prefix`` is that of the diffusion model's keys, possibly empty. ``guard`` and ``not_linear`` hold
    patterns of the layers that keep an unpacked format in every recipe: ComfyUI reads the model's
    size from the shapes of the former, and the latter's modules know no packed weights.
    """

    name: str
    title: str
    prefix: str
    default_recipe: str
    guard: tuple[str, ...]
    not_linear: tuple[str, ...]

    def guards(self, layer: str) -> bool:
        """True when ComfyUI cannot load this layer's weight packed (``layer`` without prefix)."""
        return self.no_linear(layer) or any(re.fullmatch(pattern, layer) for pattern in self.guard)

    def no_linear(self, layer: str) -> bool:
        """True when the module behind this weight is no linear layer and reads neither scale nor tag."""
        return any(re.fullmatch(pattern, layer) for pattern in self.not_linear)


_KNOWN = (*SIGNATURES, *TEXT_ENCODERS)
GUARDED_EVERYWHERE = tuple(sorted({rule for known in _KNOWN for rule in known.guard}.union(WITHOUT_RECIPE) - {".*"}))
"""An unknown model gets every family's guard: keeping a few small layers costs next to nothing."""
NEVER_LINEAR = tuple(sorted({rule for known in _KNOWN for rule in known.not_linear}.union(NOT_LINEAR)))


def detect_prefix(names: Iterable[str]) -> str:
    """Return the diffusion model's key prefix as ComfyUI's loader would choose it: the one with the most keys, above 5.

    A text encoder in a file of its own has none: ``model.`` belongs to its names.
    """
    names = list(names)
    counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in PREFIXES}
    best = max(PREFIXES, key=lambda prefix: counts[prefix])
    if counts[best] > 5:
        return best
    inside = [name for name in names if not name.startswith(TEXT_ENCODER_PREFIXES + OTHER_PREFIXES)]
    if not inside or not all(name.startswith(LAST_PREFIX) for name in inside) or _first(TEXT_ENCODERS, names, {}):
        return ""
    return LAST_PREFIX


def detect_family(tensors: Iterable[str] | Mapping[str, TensorInfo]) -> Family:
    """Recognise the model of a checkpoint.

    Args:
        tensors: the tensors of a source, or only their names; shapes are compared where they are known.

    A model that no signature matches is the family ``generic``, which is a valid answer.
    """
    names = list(tensors)
    shapes = {name: info.shape for name, info in tensors.items()} if isinstance(tensors, Mapping) else {}
    prefix = detect_prefix(names)
    keys = [name[len(prefix) :] for name in names if name.startswith(prefix)]
    inside = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
    found = _first(_KNOWN, keys, inside)
    if found is None:
        return Family("generic", "unknown model", prefix, "generic", GUARDED_EVERYWHERE, NEVER_LINEAR)
    return Family(found.name, found.title, prefix, found.recipe, found.guard, found.not_linear)


def detect_encoders(tensors: Mapping[str, TensorInfo]) -> dict[str, Family]:
    """Recognise the text encoders of an all-in-one checkpoint, by their key prefixes.

    ``default_recipe`` is "" for one that must not be quantized, because ComfyUI builds it without quantized layers.
    """
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, info in tensors.items():
        prefix = encoder_prefix(name)
        if prefix:
            parts.setdefault(prefix, {})[name[len(prefix) :]] = info.shape
    found = {}
    for prefix, inside in parts.items():
        known = _first(TEXT_ENCODERS, list(inside), inside)
        if known is None:
            found[prefix] = Family("text-encoder", "text encoder", prefix, "", (), ENCODER_NOT_LINEAR)
        else:
            recipe = known.recipe if _encoder_name(prefix) in QUANTIZED_ENCODERS else ""
            found[prefix] = Family(known.name, known.title, prefix, recipe, known.guard, known.not_linear)
    return found


def encoder_prefix(name: str) -> str:
    """``text_encoders.NAME.transformer.`` of a key in such an encoder, a shorter prefix elsewhere, "" outside."""
    match = re.match(r"text_encoders\.\w+\.(transformer\.)?", name)
    return match[0] if match else next((prefix for prefix in TEXT_ENCODER_PREFIXES if name.startswith(prefix)), "")


def _encoder_name(prefix: str) -> str:
    parts = prefix.split(".")
    return parts[1] if parts[0] == "text_encoders" and parts[2:] == ["transformer", ""] else ""


def _first(signatures: Iterable[Signature], keys: list[str], shapes: Mapping[str, tuple[int, ...]]) -> Signature | None:
    """The first signature whose patterns all match a key and whose shapes contradict none."""
    for signature in signatures:
        if all(shapes.get(key, shape) == shape for key, shape in signature.shapes) and all(
            any(re.fullmatch(pattern, key) for key in keys) for pattern in signature.needs
        ):
            return signature
    return None


def component(name: str, prefix: str) -> str:
    """Tell the part of an all-in-one file that a tensor belongs to.

    Returns:
        ``diffusion_model``, ``text_encoder`` or ``other`` (VAE and everything unknown).
    """
    if prefix and name.startswith(prefix):
        return "diffusion_model"
    if name.startswith(TEXT_ENCODER_PREFIXES):
        return "text_encoder"
    if prefix or name.startswith(OTHER_PREFIXES):
        return "other"
    return "diffusion_model"
