"""Whether a calibration belongs to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .fingerprint import differing
from .statistics import Calibration, samples_of


def mismatches(
    calibration: Calibration,
    shapes: Mapping[str, tuple[int, int]],
    samples: Mapping[str, torch.Tensor] | None = None,
) -> list[str]:
    """One short line for each calibrated layer that the checkpoint lacks or holds otherwise.

    shapes: layer name (without prefix) -> weight shape (out_features, in_features), as torch stores it.
    samples: layer name -> float32 [16] values of its weight (see fingerprint.py); layers without are only
    compared by shape. An empty list means that the calibration fits; layers of the checkpoint that were not
    calibrated are not its concern. Sides that an imported calibration does not know are not compared.
    """
    found = []
    other_weights = set(other_weights_than(calibration, samples or {}))
    for name, layer in sorted(calibration.layers.items()):
        if name not in shapes:
            found.append(f"{name} is not in the checkpoint")
            continue
        rows, columns = shapes[name]
        fits = layer.out_features in (0, rows) and layer.in_features in (0, columns)
        if not fits:
            found.append(f"{name} was calibrated as {layer.out_features} x {layer.in_features}, is {rows} x {columns}")
        elif name in other_weights:
            found.append(f"{name} has other weights than when it was calibrated")
    return found


def other_weights_than(calibration: Calibration, samples: Mapping[str, torch.Tensor]) -> list[str]:
    """The layers whose weights are not those that were calibrated, by the rule of `fingerprint.alike`."""
    return differing(samples_of(calibration.layers), samples)
