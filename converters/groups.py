"""Weight errors by type of layer, as calibrations name types."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ..calibration.kinds import kinds
from ..calibration.prefixes import without_prefix
from .measure import LayerError


def error_groups(layers: Iterable[LayerError], names: Iterable[str] = ()) -> list[dict[str, Any]]:
    """One row for each type and format, in the order of the layers; SQNR None where nothing changed.

    Args:
        names: of all layers of the file, by which a block's number is known; those of ``layers`` count anyway.
    """
    layers = list(layers)
    types = kinds(map(without_prefix, dict.fromkeys((*names, *(layer.name for layer in layers)))))
    members: dict[tuple[str, str], list[LayerError]] = defaultdict(list)
    for layer in layers:
        members[types[without_prefix(layer.name)], layer.format].append(layer)
    rows = []
    for (name, stored), group in members.items():
        values = [layer.sqnr_db for layer in group if layer.sqnr_db is not None]
        rows.append(
            {
                "group": name,
                "format": stored,
                "layers": len(group),
                "mean_sqnr_db": sum(values) / len(values) if values else None,
                "worst_sqnr_db": min(values, default=None),
                "mean_rel_rmse": sum(layer.rel_rmse for layer in group) / len(group),
            }
        )
    return rows
