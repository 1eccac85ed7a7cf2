"""Our rounding methods on the same layers, alone and with what can be combined with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nvfp4_studio.converters.formats import Encoding, Weight, nvfp4
from nvfp4_studio.converters.held_out import HeldOut, gain_of, outputs, search_pre_quant
from nvfp4_studio.converters.rounding import INFORMED, METHODS, pre_quant

from .layers import Layer, errors_of

COMBINED = ("nearest", "weighted", "gptq")
"""Methods that are also measured with a searched pre_quant_scale, and with a gain."""


@dataclass(frozen=True)
class Way:
    """A method and what is combined with it."""

    rounding: str
    pre_quant: bool = False
    gain: bool = False

    @property
    def label(self) -> str:
        return self.rounding + " + pre_quant_scale" * self.pre_quant + " + gain" * self.gain

    @property
    def needs(self) -> str:
        """The detail of the calibration that it needs."""
        return "curvature" if self.pre_quant or self.gain else METHODS[self.rounding].NEEDS


def ways() -> Iterator[Way]:
    for rounding in ("nearest", *(name for name in METHODS if name != "nearest")):
        yield Way(rounding)
    for rounding in COMBINED:
        yield Way(rounding, pre_quant=True)
        yield Way(rounding, gain=True)
    yield Way("gptq", pre_quant=True, gain=True)


def measure(layers: list[Layer], way: Way) -> dict[str, Any]:
    """Errors and CPU seconds of one way; the search of the exponents is in the time."""
    started = time.process_time()
    decoded, scaled = {}, 0
    for layer in layers:
        stored, scale = _encoded(layer, way)
        scaled += scale is not None
        scales = nvfp4.unblocked_scales(stored["weight_scale"], tuple(layer.weight.shape))
        values = nvfp4.decode_rows(stored["weight"], scales, stored["weight_scale_2"], layer.weight.shape[1])
        decoded[layer.key] = values[: len(layer.weight)], scale
    seconds = time.process_time() - started
    found = errors_of(layers, decoded).to_json() | {"cpu_seconds": round(seconds, 3)}
    return found | ({"layers_with_scale": scaled} if way.pre_quant else {})


def _encoded(layer: Layer, way: Way) -> tuple[dict[str, Tensor], Tensor | None]:
    weight, seen, scale = Weight(layer.key, layer.weight), layer.statistics, None
    found = search_pre_quant(weight, seen, way.rounding) if way.pre_quant else None
    if found is not None:
        scale = pre_quant.pre_quant_scale(seen, found.exponent)
        weight, seen = replace(weight, divisor=scale), pre_quant.transformed(seen, scale)
    statistics = seen if way.rounding in INFORMED else None
    stored = nvfp4.encode(weight, Encoding(METHODS[way.rounding], torch.device("cpu"), statistics=statistics))
    rows = HeldOut.of(seen, None) if way.gain else None
    if rows is not None:
        stored["weight_scale_2"] = stored["weight_scale_2"] * gain_of(outputs(weight, stored, rows))
    return stored, scale
