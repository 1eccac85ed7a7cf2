"""What is compared: rounding methods, and what is combined with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nvfp4_studio.converters.rounding import METHODS, OFF, SEARCH

COMBINED = ("gptq", "weighted", "nearest")
"""Methods that are also measured with a searched pre_quant_scale and with a gain measured on outputs."""


@dataclass(frozen=True)
class Way:
    """A method and what is combined with it. ``gain``: from the weights alone; ``measured_gain``: from outputs."""

    rounding: str
    gain: bool = False
    pre_quant: bool = False
    measured_gain: bool = False

    @property
    def label(self) -> str:
        extras = {"gain": self.gain, "pre_quant_scale": self.pre_quant, "measured gain": self.measured_gain}
        return " + ".join([self.rounding, *(name for name, used in extras.items() if used)])

    @property
    def needs(self) -> str:
        """The detail of the calibration that it needs."""
        return "curvature" if self.pre_quant or self.measured_gain else METHODS[self.rounding].NEEDS

    def options(self) -> dict[str, Any]:
        """Those of the conversion; a gain from the weights is put into the file afterwards."""
        return {"rounding": self.rounding, "pre_quant": SEARCH if self.pre_quant else OFF, "gain": self.measured_gain}


def ways(roundings: Sequence[str], gain: bool, measured: bool) -> Iterator[Way]:
    """All, ``nearest`` first, which the others are compared with."""
    for rounding in dict.fromkeys(("nearest", *roundings)):
        yield Way(rounding)
        if gain and METHODS[rounding].CANDIDATES:
            yield Way(rounding, gain=True)
    if measured:
        yield from (Way(rounding, pre_quant=True) for rounding in COMBINED)
        yield from (Way(rounding, measured_gain=True) for rounding in COMBINED)
        yield Way("gptq", pre_quant=True, measured_gain=True)
