"""Whether a calibration belongs to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from .statistics import Calibration


def mismatches(calibration: Calibration, shapes: Mapping[str, tuple[int, int]]) -> list[str]:
    """One short line for each calibrated layer that the checkpoint lacks or holds with another shape.

    shapes: layer name (without prefix) -> weight shape (out_features, in_features), as torch stores it.
    An empty list means that the calibration fits; layers of the checkpoint that were not calibrated are not
    its concern. Sides that an imported calibration does not know are not compared.
    """
    found = []
    for name, layer in sorted(calibration.layers.items()):
        if name not in shapes:
            found.append(f"{name} is not in the checkpoint")
            continue
        rows, columns = shapes[name]
        fits = layer.out_features in (0, rows) and layer.in_features in (0, columns)
        if not fits:
            found.append(f"{name} was calibrated as {layer.out_features} x {layer.in_features}, is {rows} x {columns}")
    return found
