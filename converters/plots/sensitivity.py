"""A sensitivity in one picture: errors and shares by block and type, the worst layers as bars."""

from __future__ import annotations

from collections.abc import Sequence

from ..sensitivity.page import main_policy
from ..sensitivity.values import LayerSensitivity, Sensitivity, decibels
from .bars import bar_chart
from .block_map import layer_table, map_note
from .canvas import BLUE, Picture, blend, stacked
from .heat import Key, heat_map

WORST_SHOWN = 30
SHARES = (1e-4, 1.0)
"""The ends of the colours, as shares of the total: below a ten-thousandth nobody can tell a layer's format."""


def sensitivity_plot(found: Sensitivity) -> Picture:
    """Maps of each layer's own error and of its share of the total, and the largest shares, in one format."""
    free = [layer for layer in found.layers if not layer.fixed]
    policy = main_policy(free)
    layers = [layer for layer in free if layer.of_policy(policy)]
    whole = sum(_share(layer, policy) for layer in layers) or 1.0
    shares = {layer.module: _share(layer, policy) / whole for layer in layers}
    title = "Share of the model's error" if found.influence_measured else "Share of the sum of the layers' own errors"
    worst = sorted(layers, key=lambda layer: -shares[layer.module])[:WORST_SHOWN]
    return stacked(
        [
            _own_errors(found, layers, policy),
            _shares(f"{title} by block and type, {policy}", layers, shares),
            bar_chart(
                f"{title}: the largest, {policy} with each layer's best rounding",
                [(layer.module, 100 * shares[layer.module], policy) for layer in worst],
                "%",
            ),
        ]
    )


def _own_errors(found: Sensitivity, layers: Sequence[LayerSensitivity], policy: str) -> Picture:
    low, high = 12.0, 36.0
    key = Key(
        "SQNR in dB of the layer's own output",
        lambda db: (db - low) / (high - low),
        blend([(122, 10, 30), (213, 94, 0), (240, 200, 90), (150, 200, 150), BLUE]),
        tuple(((db - low) / (high - low), f"{db:.0f}") for db in (12.0, 18.0, 24.0, 30.0, 36.0)),
        nothing="not measured",
    )
    values = [(layer.module, decibels(layer.error(layer.of_policy(policy)[0]))) for layer in layers]
    rows, columns, outside = layer_table(values)
    title = f"{found.source}: output error in {policy}, by block and type"
    return heat_map(title, map_note(rows, outside), rows, columns, "block", key)


def _shares(title: str, layers: Sequence[LayerSensitivity], shares: dict[str, float]) -> Picture:
    low, high = (decibels(end) for end in SHARES)
    key = Key(
        "share of the total, logarithmic",
        lambda share: (low - decibels(share)) / (low - high),
        blend([(235, 240, 245), (160, 195, 220), (240, 200, 90), (213, 94, 0), (122, 10, 30)]),
        tuple((place / 4, text) for place, text in enumerate(("0.01 %", "0.1 %", "1 %", "10 %", "100 %"))),
        nothing="not measured",
    )
    rows, columns, outside = layer_table([(layer.module, shares[layer.module]) for layer in layers])
    return heat_map(title, map_note(rows, outside), rows, columns, "block", key)


def _share(layer: LayerSensitivity, policy: str) -> float:
    return layer.share(layer.of_policy(policy)[0])
