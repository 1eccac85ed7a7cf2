"""What passes through unchanged, what was repaired or removed, and the output's header."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import torch

from ... import __version__
from ..containers.layout import TensorSpec
from ..formats import tags
from ..layers import Carried
from ..plan import Constant, Copy, LayerDecision, Plan
from ..rounding import OFF
from ..tags import METADATA_KEY, resolved
from .context import Context

PROVENANCE_KEY = "nvfp4_studio"
STALE_METADATA = (METADATA_KEY, PROVENANCE_KEY, "modelspec.hash_sha256")
"""Header entries of the source that describe bytes which the output does not have."""


def copies_of(context: Context, layers: tuple[LayerDecision, ...]) -> tuple[Copy, ...]:
    """Everything that is neither a layer's weight nor describes one."""
    weights = {f"{layer.source_name}.weight" for layer in layers}
    copies = [
        Copy(name, context.unchanged(name))
        for name in context.source.tensors
        if context.kept(name) and name not in weights and name not in context.recognised.descriptions
    ]
    for carried in _carried(context).values():
        copies += [Copy(name, context.unchanged_companion(name)) for name in carried.companions]
    return tuple(copies)


def constants_of(context: Context) -> tuple[Constant, ...]:
    """The ``comfy_quant`` tensors of weights that are carried over."""
    constants = []
    for name, carried in _carried(context).items():
        if carried.tag is not None:
            data = tags.encode(carried.tag)
            constants.append(
                Constant(TensorSpec(f"{context.output_name(name)}.comfy_quant", torch.uint8, (len(data),)), data)
            )
    return tuple(constants)


def _carried(context: Context) -> dict[str, Carried]:
    return {name: carried for name, carried in context.recognised.carried.items() if context.kept(name)}


def repairs_of(context: Context, layers: tuple[LayerDecision, ...]) -> list[str]:
    """One line for each kind of repair."""
    kinds: dict[str, list[str]] = {}
    for layer in layers:
        for repair in layer.repairs:
            kinds.setdefault(repair, []).append(layer.name)
    owners = {layer.source_name for layer in layers} | set(context.recognised.carried)
    described = (key for key in context.recognised.descriptions if context.kept(key))
    stale = sorted(key for key in described if key.rpartition(".")[0] not in owners)
    lines = [f"{repair}: {len(names)} layers, first {names[0]}" for repair, names in kinds.items()]
    if stale:
        lines.append(f"stale quantization tensors removed: {len(stale)}, first {stale[0]}")
    header = context.source.metadata.get(METADATA_KEY)
    if header is not None:
        named = json.loads(header).get("layers", {})
        gone = [name for name in named if context.kept(name) and resolved(context.source, name) not in owners]
        if gone:
            lines.append(f"header entries that no longer apply removed: {len(gone)}, first {gone[0]}")
    return lines


def metadata_of(context: Context, plan: Plan) -> dict[str, str]:
    """The output's header metadata: the source's own, the tags of all layers, and how the file was made.

    Roundings are those that were planned: where one is worse than nearest on held-out inputs a layer gets nearest, which
    the report tells, and the header is as long as it will be before any layer is rounded.
    """
    entries: dict[str, Mapping[str, object]] = {
        context.output_name(name): carried.tag for name, carried in _carried(context).items() if carried.tag is not None
    }
    entries.update({layer.name: layer.tag for layer in plan.layers if layer.tag is not None})
    made = {
        "version": __version__,
        "source": plan.source,
        "source_sha256": {part.name: reserved_place(number) for number, part in enumerate(context.source.files)},
        "family": plan.family,
        "recipe": plan.recipe,
        **({"recipe_content": plan.recipe_content} if plan.recipe_content else {}),
        "rounding": plan.options.rounding,
        "rounding_planned": dict(Counter(layer.rounding for layer in plan.layers if layer.rounding)),
        "input_scale": plan.options.input_scale,
        "text_encoder": plan.options.text_encoder,
        **({"pre_quant": plan.options.pre_quant} if plan.options.pre_quant != OFF else {}),
        **({"gain": True} if plan.options.gain else {}),
        "calibration": plan.calibration,
    }
    kept = {key: value for key, value in context.source.metadata.items() if key not in STALE_METADATA}
    return {**kept, METADATA_KEY: tags.header(entries), PROVENANCE_KEY: json.dumps(made)}


def reserved_place(number: int) -> str:
    """What stands in the header for the SHA-256 of source file ``number`` until it is known: 64 characters, like it."""
    return f"digest of file {number} ".ljust(64, ".")
