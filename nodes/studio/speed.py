"""How fast a plan's file would run, predicted from a table of kernel speeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ...calibration import Calibration
from ...converters import LayerDecision, Plan
from ...converters.formats import FORMATS, InputScale
from ...converters.kernels import DEFAULT_TABLE, OTHER_SHARE, KernelTable, available_tables, kernel_of, layer_seconds
from ...converters.sensitivity import Sensitivity

ROWS = 4096
"""Rows of an image of 1024² in the models of today (2×2 latents of an eighth), for layers that nobody saw."""
TEXT_ROWS = 512
"""Rows of a prompt where they are computed beside those of the image: as many as Flux pads to, more than most need."""
ONCE = re.compile(
    r"(^|[._])(mod|modulation|adaln\w*|time\w*|t_embedder|guidance\w*|vector_in|y_embedder)([._]|$)", re.I
)
"""Names of layers that compute once an image, not once a token."""
OF_TEXT = re.compile(
    r"(^|[._])(txt|text|context|caption|cap|add_[qkv]_proj|to_add_out)([._]|$)|(cross_attn\.[kv]|attn2\.to_[kv])([._]|$)",
    re.I,
)
"""Names of layers whose input is the prompt: its stream in blocks of two, and keys and values of cross-attention."""


def table_for(wanted: str | None, gpu: str) -> KernelTable:
    """The table of this name; else the one whose GPU this machine has; else the default."""
    tables = available_tables()
    if wanted is not None and wanted in tables:
        return tables[wanted]
    own = (table for table in tables.values() if table.gpu.lower() in gpu.lower())
    return next(own, tables[DEFAULT_TABLE])


def predicted_speed(plan: Plan, calibration: Calibration | None, table: KernelTable) -> dict[str, Any]:
    """``predicted``: evaluations of the model a second over those of the same model with all layers in FP8.

    How many rows layers are given decides much of it, so it is told: ``basis`` is ``calibrated`` with the most ``rows``
    of a layer, or ``image`` for an assumed image of 1024². It is assumed for a calibration of smaller images too:
    those are often made small to be quick, and a factor must not change because one is chosen.
    """
    inside = [layer for layer in plan.layers if layer.component == "diffusion_model"]
    most = _most_rows(inside, calibration)
    rows = [rows_of(layer, calibration if most >= ROWS else None) for layer in inside]
    fp8 = math.fsum(
        layer_seconds(table, "fp8", layer.shape, count, layer.shape[0] * layer.shape[1])
        for layer, count in zip(inside, rows, strict=True)
    )
    now = math.fsum(_seconds(layer, count, table) for layer, count in zip(inside, rows, strict=True))
    other = OTHER_SHARE * fp8
    origin = "measured kernels" if table.measured else "the GPU's specification"
    return {
        "predicted": (fp8 + other) / (now + other) if now + other > 0 else 1.0,
        **(_basis(most) if most >= ROWS else {"basis": "image", "rows": ROWS, "image_rows": ROWS}),
        "kernels": table.name,
        "gpu": table.gpu,
        "predicted_is": f"times the speed of all layers in FP8 on {table.gpu}, from {origin}",
    }


def measured_speed(sensitivity: Sensitivity, speed: float) -> dict[str, Any]:
    """The ``speed`` that a sensitivity tells, and its basis: the rows that its calibration saw, however ``few``.

    Budgets are kept by it, so nothing else is assumed. ``unknown``: the sensitivity's file does not tell its rows.
    """
    return {"predicted": speed, **_basis(max((layer.input_rows for layer in sensitivity.layers), default=0.0))}


def _basis(rows: float) -> dict[str, Any]:
    basis = "calibrated" if rows >= ROWS else "few" if rows > 0 else "unknown"
    return {"basis": basis, "rows": round(rows), "image_rows": ROWS}


def _most_rows(layers: Iterable[LayerDecision], calibration: Calibration | None) -> float:
    """Of any layer's input in one evaluation, as calibrated; 0 where nothing was."""
    if calibration is None:
        return 0.0
    seen = (calibration.layers.get(layer.module) for layer in layers)
    return max((one.rows / one.calls for one in seen if one is not None and one.calls), default=0.0)


def rows_of(layer: LayerDecision, calibration: Calibration | None) -> float:
    """Rows of the layer's input in one evaluation: as calibrated, else guessed from its name."""
    seen = calibration.layers.get(layer.module) if calibration is not None else None
    if seen is not None and seen.calls:
        return seen.rows / seen.calls
    if ONCE.search(layer.module):
        return 1.0
    return float(TEXT_ROWS if OF_TEXT.search(layer.module) else ROWS)


def _seconds(layer: LayerDecision, rows: float, table: KernelTable) -> float:
    stored = FORMATS.get(layer.format)
    quantized = layer.tag is not None and stored is not None
    kernel = kernel_of(layer.format, layer.full_precision) if quantized else "bf16"
    measured_input = stored is not None and stored.INPUT_SCALE is InputScale.OPTIONAL and layer.input_scale is None
    return layer_seconds(
        table,
        kernel,
        layer.shape,
        rows,
        layer.bytes_after,
        decoded=quantized and kernel == "bf16",
        dynamic=quantized and measured_input,
    )
