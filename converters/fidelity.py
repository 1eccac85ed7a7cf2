"""How faithful a converted file is: errors of its quantized layers, how many layers they are, sizes, and a grade.

Errors are those of layers' outputs on rows of input that a calibration kept, or of the weights alone without one.

The grade says which format and care a file's errors look like. Rounding one side of a product to E4M3 costs a relative
RMSE of 2.6 %, to NVFP4 by nearest rounding 9.5 %, and the best of the methods that need no data brings that to 8.1 %;
these hold for any weights that are spread like a Gaussian. An output has two rounded sides, whose errors are independent,
so its limits are √2 times as high:

=====  ==========================  =========  =========
grade  as close as                 weights    outputs
=====  ==========================  =========  =========
A      FP8                         ≤ 2.8 %    ≤ 4.0 %
B      NVFP4, well rounded         ≤ 9.0 %    ≤ 12.7 %
C      NVFP4, nearest rounding     ≤ 10 %     ≤ 14.1 %
D      up to twice as far          ≤ 20 %     ≤ 28.3 %
E      further, or a broken layer
=====  ==========================  =========  =========

A layer counts as broken above 50 %. What counts is the mean over quantized layers: a picture's error is the sum of
theirs, and no threshold on layers knows how much each of them matters (see ``sensitivity``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIDE_LIMITS = (("A", 0.028), ("B", 0.09), ("C", 0.10), ("D", 0.20))
"""Largest mean relative RMSE of each grade, for one rounded side."""
WORST_GRADE = "E"
BROKEN = 0.5
OUTPUTS, WEIGHTS = "outputs", "weights"


def grade_limits(of: str) -> dict[str, float]:
    """The largest mean relative RMSE of each grade but the last, of ``OUTPUTS`` or ``WEIGHTS``."""
    sides = math.sqrt(2) if of == OUTPUTS else 1.0
    return {name: limit * sides for name, limit in SIDE_LIMITS}


def grade_of(errors: Sequence[float], of: str) -> str:
    """The grade of layers with these relative RMSEs."""
    if any(not error <= BROKEN for error in errors):
        return WORST_GRADE
    mean = math.fsum(errors) / len(errors) if errors else 0.0
    return next((name for name, limit in grade_limits(of).items() if mean <= limit), WORST_GRADE)


def grade_words(of: str) -> str:
    """What the grades stand for, with their limits, for a sentence."""
    meant = dict(
        zip(
            grade_limits(of), ("as FP8", "NVFP4 well rounded", "NVFP4 by nearest rounding", "twice as far"), strict=True
        )
    )
    limits = ", ".join(f"{name} {meant[name]} up to {limit:.1%}" for name, limit in grade_limits(of).items())
    return f"{limits}, {WORST_GRADE} above or with a layer above {BROKEN:.0%}"


@dataclass(frozen=True)
class LayerFidelity:
    """One quantized layer.

    ``kind``: its type. ``format``: ComfyUI's name. ``mse``, ``largest``: in the units of what was compared, squared and
    plain; ``largest`` is None for weights. ``rel_rmse``, ``cosine``: of the whole matrix of outputs or weights.
    """

    name: str
    kind: str
    format: str
    mse: float
    largest: float | None
    rel_rmse: float
    cosine: float

    @property
    def rmse(self) -> float:
        return math.sqrt(self.mse)


@dataclass(frozen=True)
class Coverage:
    """One type of Linear layers: how many there are and how many of them are quantized."""

    kind: str
    quantized: int
    layers: int


@dataclass(frozen=True)
class Fidelity:
    """A converted file against its source.

    ``of``: ``outputs`` or ``weights``. ``layers``: those whose outputs, or weights, differ. ``unmeasured``: quantized ones
    that were not compared, because no row of their input was kept. ``coverage``: by type, of all Linear layers of the
    diffusion model. ``quantized``: layers that are computed with a changed weight or a rounded input, whichever ``of`` is
    compared; where only the input is rounded no weight differs.
    """

    of: str
    layers: tuple[LayerFidelity, ...]
    unmeasured: tuple[str, ...]
    coverage: tuple[Coverage, ...]
    source_bytes: int
    output_bytes: int

    @property
    def linear(self) -> int:
        return sum(kind.layers for kind in self.coverage)

    @property
    def quantized(self) -> int:
        return sum(kind.quantized for kind in self.coverage)

    def mean(self, value: Callable[[LayerFidelity], float], layers: Sequence[LayerFidelity] | None = None) -> float:
        """The plain mean over layers; 0 without any."""
        chosen = self.layers if layers is None else layers
        return math.fsum(map(value, chosen)) / len(chosen) if chosen else 0.0

    def kinds(self) -> dict[str, list[LayerFidelity]]:
        """The measured layers by type, in the file's order."""
        found: dict[str, list[LayerFidelity]] = {}
        for layer in self.layers:
            found.setdefault(layer.kind, []).append(layer)
        return found

    def grade(self) -> str:
        """A to E, see above; A for a file in which nothing is quantized."""
        return grade_of([layer.rel_rmse for layer in self.layers], self.of)

    def to_json(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "grade": self.grade(),
            "grades": grade_limits(self.of),
            "linear_layers": self.linear,
            "quantized_layers": self.quantized,
            "measured_layers": len(self.layers),
            "unmeasured": list(self.unmeasured),
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "mean": _numbers(self, self.layers),
            "groups": [
                {"kind": kind, "layers": len(layers), **_numbers(self, layers)} for kind, layers in self.kinds().items()
            ],
            "coverage": [asdict(kind) for kind in self.coverage],
            "layers": [{**asdict(layer), "rmse": layer.rmse} for layer in self.layers],
        }


def _numbers(found: Fidelity, layers: Sequence[LayerFidelity]) -> dict[str, float | None]:
    """Means over layers, and the largest error of any."""
    largest = [layer.largest for layer in layers if layer.largest is not None]
    return {
        "mse": found.mean(lambda layer: layer.mse, layers),
        "rmse": found.mean(lambda layer: layer.rmse, layers),
        "largest": max(largest, default=None),
        "rel_rmse": found.mean(lambda layer: layer.rel_rmse, layers),
        "cosine": found.mean(lambda layer: layer.cosine, layers),
    }
