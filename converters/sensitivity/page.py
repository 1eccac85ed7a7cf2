"""A sensitivity in words and tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from ...calibration import Section
from ...calibration.page import counted, share
from .values import LayerSensitivity, Outcome, Sensitivity, decibels
from .weighting import WEIGHTINGS

WORST_SHOWN = 20
MAIN = ("nvfp4", "float8_e4m3fn", "mxfp8", "int8_tensorwise")


def sensitivity_sections(found: Sensitivity) -> list[Section]:
    """What was measured, totals if all layers took one format, layer types, worst layers, layers without a choice."""
    free = [layer for layer in found.layers if not layer.fixed]
    return [
        _head(found, free),
        _totals(found),
        _kinds(free),
        _worst(free),
        *([_fixed(found)] if len(free) < len(found.layers) else []),
    ]


def main_policy(layers: Sequence[LayerSensitivity]) -> str:
    """The format that tables and plots are about: NVFP4 where a layer can have it, else the first that was measured."""
    present = {outcome.choice.policy for layer in layers for outcome in layer.outcomes}
    return next((policy for policy in MAIN if policy in present), "keep")


def _head(found: Sensitivity, free: Sequence[LayerSensitivity]) -> Section:
    rows = sum(layer.rows for layer in free)
    lines = (
        f"{found.source}: {counted(len(free), 'layer')} measured on {rows} rows of calibration {found.calibration}, "
        f"{len(found.layers) - len(free)} without a choice.",
        f"Error of a layer: its output as ComfyUI would compute it, input_scale by {found.input_scale}, against full precision. "
        "All in dB below the output itself, SQNR: more is closer.",
        f"Weighting {found.weighting}: {WEIGHTINGS.get(found.weighting, 'unknown here')}.",
        f"Times are predicted by the table {found.kernels} ({found.details.get('kernels', 'unknown here')}), not measured.",
        "Influence of layers on the model's output: not measured, so errors are those of each layer alone and totals far "
        "above the model's true error. The node NVFP4 Calibrate measures it with influence switched on."
        if not found.influence_measured
        else f"Influence of layers on the model's output: {found.details.get('influence', 'measured')}.",
    )
    return Section("Sensitivity", lines)


def _totals(found: Sensitivity) -> Section:
    """The whole model in one format; where a layer cannot have it, it stays."""
    lines = (
        "Layers that a choice was not measured for stay as they are, or get what is closest where they cannot stay.",
        "x FP8: predicted speed, times that of the same model with all of these layers computed in FP8; FP8 weights that the "
        "source computes in full precision are slower than that.",
    )
    choices = sorted(
        {outcome.choice for layer in found.layers for outcome in layer.outcomes}, key=lambda one: one.label
    )
    ways = [(choice.label, [layer.outcome(choice) for layer in found.layers]) for choice in choices]
    for policy, count in Counter(choice.policy for choice in choices).items():
        if count > 1:
            best = [next(iter(layer.of_policy(policy)), None) for layer in found.layers]
            ways.append((f"{policy}, the best in each layer", best))
    rows = [_total(found, label, outcomes) for label, outcomes in ways]
    head = ("choice", "layers", "size", "x FP8", "quality")
    return Section("Every layer in one format", lines, head, tuple(rows))


def _total(found: Sensitivity, label: str, outcomes: Sequence[Outcome | None]) -> tuple[str, ...]:
    taken = {layer.module: outcome or layer.kept for layer, outcome in zip(found.layers, outcomes, strict=True)}
    return (
        label,
        str(sum(outcome is not None for outcome in outcomes)),
        f"{found.bytes_of(taken) / 1e6:.1f} MB",
        f"{found.speed_of(taken):.2f}",
        _db(found.error_of(taken)),
    )


def _kinds(free: Sequence[LayerSensitivity]) -> Section:
    policy = main_policy(free)
    groups: dict[str, list[LayerSensitivity]] = defaultdict(list)
    for layer in free:
        if layer.of_policy(policy):
            groups[layer.kind].append(layer)
    whole = sum(_share(layer, policy) for layers in groups.values() for layer in layers)
    rows = []
    for kind, layers in sorted(groups.items(), key=lambda item: -sum(_share(layer, policy) for layer in item[1])):
        own = sum(layer.error(layer.of_policy(policy)[0]) for layer in layers) / len(layers)
        part = sum(_share(layer, policy) for layer in layers) / whole if whole else 0.0
        weights = sum(layer.shape[0] * layer.shape[1] for layer in layers)
        rows.append((kind, str(len(layers)), f"{weights / 1e6:.1f} M", _db(own), share(part)))
    return Section(
        f"Layer types in {policy}", (), ("type", "layers", "weights", "own SQNR", "of the total"), tuple(rows)
    )


def _worst(free: Sequence[LayerSensitivity]) -> Section:
    policy = main_policy(free)
    layers = sorted((layer for layer in free if layer.of_policy(policy)), key=lambda layer: -_share(layer, policy))
    whole = sum(_share(layer, policy) for layer in layers)
    rows = []
    for layer in layers[:WORST_SHOWN]:
        best = layer.of_policy(policy)[0]
        others = "  ".join(f"{other.choice.label} {_db(layer.error(other))}" for other in _alternatives(layer, best))
        part = layer.share(best) / whole if whole else 0.0
        rows.append((layer.module, best.choice.label, _db(layer.error(best)), share(part), others))
    head = ("layer", "best", "own SQNR", "of the total", "other choices")
    return Section(f"Largest shares of the error in {policy}", (), head, tuple(rows))


def _alternatives(layer: LayerSensitivity, best: Outcome) -> list[Outcome]:
    return [outcome for outcome in layer.outcomes if outcome is not best and outcome.noise > 0]


def _fixed(found: Sensitivity) -> Section:
    groups: dict[str, list[str]] = defaultdict(list)
    for layer in found.layers:
        if layer.fixed:
            groups[layer.fixed].append(layer.module)
    lines = tuple(
        f"{counted(len(names), 'layer')}: {reason} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for reason, names in groups.items()
    )
    return Section("Layers that stay as they are", lines)


def _share(layer: LayerSensitivity, policy: str) -> float:
    return layer.share(layer.of_policy(policy)[0])


def _db(error: float) -> str:
    return f"{decibels(error):.1f} dB" if error > 0 else "no error"
