"""What can be chosen: for each layer, or layers that share kernels, one option a format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import SensitivityError
from ..sensitivity import KEEP, LayerSensitivity, Outcome, Sensitivity

SHARING = (
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
    ("q_proj", "k_proj", "v_proj"),
    ("wq", "wk", "wv"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("to_q_t", "to_k_t", "to_v_t"),
    ("k_img", "v_img"),
    ("w1", "w3"),
    ("wi_0", "wi_1"),
    ("gate", "up"),
    ("gate_proj", "up_proj"),
)
"""Names of layers beside each other whose products a runtime can compute as one where they have the same input: queries,
keys and values of an attention, and both halves of a gated MLP."""

Permitted = Mapping[str, frozenset[str]]
"""For each module the policies that hard rules leave it beside ``keep``; a module that is missing has no choice."""


@dataclass(frozen=True)
class Option:
    """One format for all layers of an item. ``error``: its part of the model's relative squared error."""

    policy: str
    outcomes: tuple[Outcome, ...]
    bytes: int
    time: float
    error: float


@dataclass(frozen=True)
class Item:
    """Layers that get one format together, and the options that they have."""

    layers: tuple[LayerSensitivity, ...]
    options: tuple[Option, ...]


def menu(sensitivity: Sensitivity, permitted: Permitted | None, ties: bool) -> tuple[Item, ...]:
    """All items of a model. ``permitted`` None leaves each layer what was measured of it.

    Raises:
        SensitivityError: layers that go together have not one permitted format in common, ``keep`` not either.
    """
    items = []
    for layers in _tied(sensitivity.layers) if ties else [(layer,) for layer in sensitivity.layers]:
        formats = [best_by_policy(layer, permitted) for layer in layers]
        common = [policy for policy in formats[0] if all(policy in found for found in formats)]
        if not common:
            names = ", ".join(layer.module for layer in layers)
            raise SensitivityError(
                f"No format that the rules allow {names} was measured, and keep is none of theirs; choose a recipe that lets "
                "them change, for example weight-only, or measure more formats."
            )
        items.append(Item(layers, tuple(_option(layers, policy, formats) for policy in common)))
    return tuple(items)


def best_by_policy(layer: LayerSensitivity, permitted: Permitted | None) -> dict[str, Outcome]:
    """For each format that a layer may have the measured way of storing it with the least noise."""
    allowed = None if permitted is None else permitted.get(layer.module, frozenset())
    found: dict[str, Outcome] = {}
    for outcome in layer.outcomes:
        policy = outcome.choice.policy
        if policy != KEEP and (layer.fixed or (allowed is not None and policy not in allowed)):
            continue
        if policy not in found or outcome.noise < found[policy].noise:
            found[policy] = outcome
    return found


def _option(layers: tuple[LayerSensitivity, ...], policy: str, formats: list[dict[str, Outcome]]) -> Option:
    outcomes = tuple(found[policy] for found in formats)
    return Option(
        policy,
        outcomes,
        bytes=sum(outcome.bytes for outcome in outcomes),
        time=math.fsum(outcome.time for outcome in outcomes),
        error=math.fsum(layer.share(outcome) for layer, outcome in zip(layers, outcomes, strict=True)),
    )


def _tied(layers: Iterable[LayerSensitivity]) -> list[tuple[LayerSensitivity, ...]]:
    """Layers that share kernels. Queries of a cross attention see the image, keys and values the text: the sides and rows of
    their inputs tell them apart."""
    groups: dict[tuple[str, int, float], list[LayerSensitivity]] = {}
    for layer in layers:
        groups.setdefault((shared_name(layer.module), layer.shape[1], layer.input_rows), []).append(layer)
    return [tuple(group) for group in groups.values()]


def shared_name(module: str) -> str:
    """One name for layers that share kernels, given one input: ``blocks.3.attn.to_q|to_k|to_v``; other modules keep their own."""
    parts = module.split(".")
    for place in reversed(range(len(parts))):
        found = next((names for names in SHARING if parts[place] in names), None)
        if found is not None:
            return ".".join([*parts[:place], "|".join(found), *parts[place + 1 :]])
    return module
