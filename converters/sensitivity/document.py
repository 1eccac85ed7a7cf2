"""The JSON file of a sensitivity, read as hostile input."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeVar

from ..errors import SensitivityError
from ..formats import POLICIES, nvfp4
from ..rounding import METHODS
from .json_file import read_json, write_json
from .values import FORMAT, KEEP, VERSION, Choice, LayerSensitivity, Outcome, Sensitivity

MAX_BYTES = 1 << 28
MAX_LAYERS, MAX_OUTCOMES, MAX_TEXT = 32768, 256, 1024
MAX_NUMBER = 1e300
MAX_COUNT = 1 << 47
"""Sums over all layers stay below 2⁶³."""
_Known = TypeVar("_Known")


def save(sensitivity: Sensitivity, path: str | PathLike[str]) -> None:
    """Write the JSON, replacing an older file only when the new one is complete on disk.

    Raises:
        SensitivityError: it cannot be written.
    """
    write_json(sensitivity.to_json(), path)


def load(path: str | PathLike[str]) -> Sensitivity:
    """Read a file that ``save`` wrote.

    Raises:
        SensitivityError: there is none, or it is something else.
    """
    return from_json(read_json(path, "sensitivity", MAX_BYTES), str(path))


def from_json(data: Any, where: str = "The sensitivity") -> Sensitivity:
    """Check data of ``Sensitivity.to_json``.

    Raises:
        SensitivityError: naming ``where`` and what is wrong there.
    """
    reader = Reader(where)
    data = reader.of(data, dict, "the document")
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise reader.wrong("format and version", f"{data.get('format')} {data.get('version')}")
    layers = reader.of(data.get("layers"), list, "layers", MAX_LAYERS)
    details = reader.of(data.get("details", {}), dict, "details", MAX_OUTCOMES)
    texts = ("source", "fingerprint", "family", "calibration", "input_scale", "weighting", "kernels")
    read = Sensitivity(
        **{key: reader.text(data.get(key), key) for key in texts},
        other_bytes=reader.count(data.get("other_bytes"), "other_bytes"),
        other_time=reader.number(data.get("other_time"), "other_time"),
        layers=tuple(layer_from_json(reader, layer) for layer in layers),
        details={reader.text(key, "details"): reader.text(value, "details") for key, value in details.items()},
    )
    modules = [layer.module for layer in read.layers]
    if len(set(modules)) != len(modules):
        raise reader.wrong("layers", "a module twice")
    return read


def layer_from_json(reader: Reader, data: Any) -> LayerSensitivity:
    data = reader.of(data, dict, "a layer")
    module = reader.text(data.get("module"), "module")
    shape = [reader.count(side, f"shape of {module}") for side in reader.of(data.get("shape"), list, "shape", 2)]
    if len(shape) != 2:
        raise reader.wrong(f"shape of {module}", str(shape))
    outcomes = reader.of(data.get("outcomes"), list, f"outcomes of {module}", MAX_OUTCOMES)
    read = tuple(_outcome_from_json(reader, outcome, module) for outcome in outcomes)
    if not read or len({outcome.choice for outcome in read}) != len(read):
        raise reader.wrong(f"outcomes of {module}", "none, or one twice")
    layer = LayerSensitivity(
        name=reader.text(data.get("name"), "name"),
        module=module,
        kind=reader.text(data.get("kind"), "kind"),
        block=reader.text(data.get("block"), "block", empty=True),
        shape=(shape[0], shape[1]),
        rows=reader.count(data.get("rows"), f"rows of {module}"),
        signal=reader.number(data.get("signal"), f"signal of {module}"),
        fp8_time=reader.number(data.get("fp8_time"), f"fp8_time of {module}"),
        outcomes=read,
        influence=reader.number(data.get("influence", 1.0), f"influence of {module}"),
        fixed=reader.text(data.get("fixed", ""), f"fixed of {module}", empty=True),
        input_rows=reader.number(data.get("input_rows", 0.0), f"input_rows of {module}"),
    )
    for outcome in read:
        if not layer.share(outcome) <= MAX_NUMBER:
            raise reader.wrong(f"noise of {module}", f"{outcome.noise} of a signal of {layer.signal}")
    return layer


def _outcome_from_json(reader: Reader, data: Any, module: str) -> Outcome:
    data = reader.of(data, dict, f"an outcome of {module}")
    policy, rounding = data.get("policy"), data.get("rounding", "")
    if policy != KEEP and not (isinstance(policy, str) and policy in POLICIES):
        raise reader.wrong(f"policy of {module}", str(policy))
    if not (rounding == "" or (policy == nvfp4.NAME and isinstance(rounding, str) and rounding in METHODS)):
        raise reader.wrong(f"rounding of {module}", str(rounding))
    exponent, gain = data.get("pre_quant_exponent"), data.get("gain", False)
    if exponent is not None:
        exponent = reader.number(exponent, f"pre_quant_exponent of {module}", most=1)
    if (exponent is not None or gain is not False) and policy != nvfp4.NAME or not isinstance(gain, bool):
        raise reader.wrong(f"pre_quant_exponent and gain of {module}", f"{exponent}, {gain}")
    return Outcome(
        Choice(policy, rounding, exponent, gain),
        bytes=reader.count(data.get("bytes"), f"bytes of {module}"),
        noise=reader.number(data.get("noise"), f"noise of {module}"),
        time=reader.number(data.get("time"), f"time of {module}"),
    )


@dataclass(frozen=True)
class Reader:
    """Checks of single values; ``where`` begins every sentence, ``kind`` is what it should be."""

    where: str
    kind: str = "sensitivity"

    def wrong(self, what: str, found: str) -> SensitivityError:
        shown = "".join(letter if letter.isprintable() else "?" for letter in found[:60])
        return SensitivityError(f"{self.where} is no usable {self.kind}: {what} is {shown!r}; measure it again.")

    def of(self, value: Any, kind: type[_Known], what: str, most: int | None = None) -> _Known:
        """A list or an object of at most ``most`` entries."""
        if not isinstance(value, kind) or (most is not None and len(value) > most):  # type: ignore[arg-type]
            raise self.wrong(what, str(value)[:60])
        return value

    def text(self, value: Any, what: str, *, empty: bool = False) -> str:
        """Printable, so that showing it can do nothing to a terminal."""
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable() or not (value or empty):
            raise self.wrong(what, str(value)[:60])
        return value

    def count(self, value: Any, what: str) -> int:
        if type(value) is not int or not 0 <= value < MAX_COUNT:
            raise self.wrong(what, str(value)[:60])
        return value

    def number(self, value: Any, what: str, most: float = MAX_NUMBER) -> float:
        """Finite and not negative."""
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise self.wrong(what, str(value)[:60])
        return float(value)
