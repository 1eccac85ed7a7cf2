"""What the file may be worth on other GPUs: from tables of kernel speeds, always marked as predicted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...converters.families import component, detect_prefix
from ...converters.formats import FORMATS, InputScale
from ...converters.kernels import OTHER_SHARE, KernelTable, available_tables, kernel_of, layer_seconds
from ...converters.layers import recognise

if TYPE_CHECKING:
    from ...calibration import Calibration
    from ...converters import Source
    from ...converters.layers import SourceLayer

ASSUMED = (
    "Predicted, not measured: time of the layers that the calibration saw, with as many rows as it saw, from a table of "
    "each GPU's speeds, over the time of the same layers all in FP8; what no layer's format changes (attention, norms) "
    "takes {share} of that."
)


def predict(source: Source, calibration: Calibration) -> dict[str, Any]:
    """{"assumed": sentence, "tables": [{"table", "gpu", "source", "date", "measured", "times"}]}.

    times: evaluations of the model a second, over those with all these layers in FP8 with input_scale.
    """
    prefix = detect_prefix(source.tensors)
    layers = []
    for layer in recognise(source).layers.values():
        seen = calibration.layers.get(layer.name.removeprefix(prefix))
        inside = component(layer.weight, prefix) == "diffusion_model"
        if inside and seen is not None and seen.calls and seen.in_features and seen.out_features:
            layers.append((layer, (seen.out_features, seen.in_features), seen.rows / seen.calls))
    tables = []
    for table in available_tables().values() if layers else ():
        fp8 = math.fsum(layer_seconds(table, "fp8", shape, rows, math.prod(shape)) for _, shape, rows in layers)
        now = math.fsum(_seconds(source, layer, shape, rows, table) for layer, shape, rows in layers)
        tables.append(
            {
                "table": table.name,
                "gpu": table.gpu,
                "source": table.source,
                "date": table.date,
                "measured": table.measured,
                "times": (fp8 + OTHER_SHARE * fp8) / (now + OTHER_SHARE * fp8),
            }
        )
    return {"assumed": ASSUMED.format(share=OTHER_SHARE), "layers": len(layers), "tables": tables}


def _seconds(source: Source, layer: SourceLayer, shape: tuple[int, int], rows: float, table: KernelTable) -> float:
    stored = FORMATS.get(layer.format) if layer.tag is not None else None
    kernel = kernel_of(layer.format, layer.full_precision) if stored is not None else "bf16"
    names = (layer.weight, *layer.companions)
    return layer_seconds(
        table,
        kernel,
        shape,
        rows,
        sum(source.tensors[name].nbytes for name in names),
        decoded=stored is not None and kernel == "bf16",
        dynamic=stored is not None and stored.INPUT_SCALE is InputScale.OPTIONAL and layer.input_scale is None,
    )
