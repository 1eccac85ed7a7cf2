"""Weight errors by kind of layer: names with the block's number taken out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .measure import LayerError


def error_groups(layers: Iterable[LayerError]) -> list[dict[str, Any]]:
    """One row for each kind and format, in the order of the layers; SQNR None where nothing changed."""
    members: dict[tuple[str, str], list[LayerError]] = defaultdict(list)
    for layer in layers:
        members[re.sub(r"\.\d+\.", ".N.", layer.name), layer.format].append(layer)
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
