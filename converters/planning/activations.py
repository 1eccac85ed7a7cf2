"""From a calibration to what a layer's activations need: range, notes, and whether it fits the source."""

from __future__ import annotations

import torch

from ...calibration import (
    ActivationRange,
    activation_range,
    mismatches,
    other_weights_than,
    sample_rows,
    samples_from_rows,
)
from ..errors import PlanError
from ..layers import SourceLayer
from ..rounding.pre_quant import pre_quant_scale, transformed
from ..source import Source
from ..stored import decoder
from .context import Context


def check_calibration(context: Context) -> list[str]:
    """Compare the calibration with the source and return warnings.

    Some models rename a few keys while they load, so single unknown names are only warnings; another
    shape, or more unknown names than known ones, means another model. So does it when most layers have other
    weights than the calibrated ones (the rule is ``calibration.alike``); a few are warned about.

    Raises:
        PlanError: the calibration is of another model; names the first differences.
    """
    if context.calibration is None:
        return []
    shapes = {}
    for layer in context.recognised.layers.values():
        if context.part(layer.weight) == "diffusion_model":
            module = context.module(layer)
            seen = context.calibration.layers.get(module)
            # The stored sides of a packed weight are not those of the layer, so there is nothing to compare.
            packed = seen is not None and not (layer.is_fp8 or layer.is_plain)
            shapes[module] = (seen.out_features, seen.in_features) if seen and packed else layer.shape
    names = list(context.calibration.layers)
    unknown = [name for name in names if name not in shapes]
    differences = mismatches(context.calibration, shapes)
    if not names or len(unknown) * 2 > len(names) or len(differences) > len(unknown):
        told = "; ".join(differences[:3]) or "it holds no layer"
        raise PlanError(
            f"The calibration is of another model than {context.source.path.name} ({len(differences)} of {len(names)} layers "
            f"differ: {told}); choose this model's calibration or calibrate anew."
        )
    samples = _samples(context)
    other_weights = other_weights_than(context.calibration, samples)
    compared = [name for name in samples if name in names and context.calibration.layers[name].weight_samples.numel()]
    if len(other_weights) * 2 > len(compared):
        raise PlanError(
            f"The calibration is of another checkpoint than {context.source.path.name}: {len(other_weights)} of "
            f"{len(compared)} layers have other weights ({', '.join(other_weights[:3])}); choose this model's "
            "calibration or calibrate anew."
        )
    return [
        *(f"calibrated layer {name} is not in the source" for name in unknown),
        *(f"layer {name} has other weights than when it was calibrated" for name in other_weights),
    ]


def _samples(context: Context) -> dict[str, torch.Tensor]:
    """The fingerprint of each calibrated layer that is stored in a float format: of four rows, read once a source."""
    assert context.calibration is not None
    found = {}
    for layer in context.recognised.layers.values():
        module = context.module(layer)
        calibrated = context.calibration.layers.get(module)
        if calibrated is None or context.part(layer.weight) != "diffusion_model" or 0 in layer.shape:
            continue
        if calibrated.weight_samples.numel() and (layer.is_fp8 or layer.is_plain):
            found[module] = _layer_samples(context.source, layer)
    return found


def _layer_samples(source: Source, layer: SourceLayer) -> torch.Tensor:
    def read() -> torch.Tensor:
        rows = decoder(source, layer, layer.shape)
        return samples_from_rows(torch.cat([rows(row, row + 1) for row in sample_rows(layer.shape)]), layer.shape)

    return source.remembered(("samples", layer.name), read)


def activation(
    context: Context, module: str, exponent: float | None = None
) -> tuple[ActivationRange | None, tuple[str, ...]]:
    """The range of one layer's input by the chosen policy, None without statistics, and notes for the user.

    ``exponent`` is that of the layer's pre_quant_scale, by which the input is multiplied before it is quantized.
    """
    if context.calibration is None:
        return None, ()
    statistics = context.calibration.layers.get(module)
    if statistics is None or statistics.calls == 0:
        return None, (
            "never seen while calibrating, so its activations stay dynamic (NVFP4) or in full precision (FP8)",
        )
    if exponent is not None:
        statistics = transformed(statistics, pre_quant_scale(statistics, exponent))
    chosen = activation_range(statistics, context.options.input_scale, module)
    return chosen, (chosen.note,) if chosen.note else ()
