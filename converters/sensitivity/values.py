"""What a measurement of sensitivity holds: plain values and their JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT, VERSION = "nvfp4-studio-sensitivity", 1
KEEP = "keep"
"""The policy of a layer that stays as the source has it."""


@dataclass(frozen=True)
class Choice:
    """One way to store a layer.

    ``policy``: a recipe's policy, ``keep`` among them. For NVFP4 only: ``rounding``, a key of ``METHODS``;
    ``pre_quant_exponent``, that of the channel magnitudes which divide the input, None for no pre_quant_scale;
    ``gain``, a constant factor in ``weight_scale_2``.
    """

    policy: str
    rounding: str = ""
    pre_quant_exponent: float | None = None
    gain: bool = False

    @property
    def label(self) -> str:
        """ "nvfp4/gptq", "nvfp4/gptq+awq0.5+gain", "mxfp8", "keep"."""
        extras = "" if self.pre_quant_exponent is None else f"+awq{self.pre_quant_exponent:g}"
        return (f"{self.policy}/{self.rounding}" if self.rounding else self.policy) + extras + "+gain" * self.gain


@dataclass(frozen=True)
class Outcome:
    """What a choice costs.

    ``bytes``: of all tensors of the layer. ``noise``: the weighted mean of (y − y')² over held-out rows and output
    channels, where y is the source's layer in full precision and y' what ComfyUI computes. ``time``: predicted
    seconds that the layer takes in one evaluation of the model, by the kernel table; tables know ratios better
    than seconds.
    """

    choice: Choice
    bytes: int
    noise: float
    time: float


@dataclass(frozen=True)
class LayerSensitivity:
    """All choices that one layer has.

    ``name`` as the source calls it, ``module`` as calibrations do, ``kind`` its type ("blocks.N.attn.q") and
    ``block`` its block ("blocks.7", "" outside). ``shape``: (out_features, in_features). ``rows``: how many were
    measured on. ``signal``: the weighted mean of y². ``fp8_time``: ``Outcome.time`` if it were FP8, by which speeds
    are told. ``fixed``: why there is no choice but ``keep``, "" when there is; without rows signal and noise are 0.
    ``influence``: how much of a relative squared error of its output reaches the model's (see ``influence``).
    ``input_rows``: of its input in one evaluation of the model, on average; 0 where nobody knows.
    """

    name: str
    module: str
    kind: str
    block: str
    shape: tuple[int, int]
    rows: int
    signal: float
    fp8_time: float
    outcomes: tuple[Outcome, ...]
    fixed: str = ""
    influence: float = 1.0
    input_rows: float = 0.0

    def share(self, outcome: Outcome) -> float:
        """What a choice adds to the relative squared error of the model's output: influence · noise / signal.

        Shares of layers add: their errors are independent. Where influence was not measured it is 1, sums are far
        above the model's true error, and only the order of a layer's own outcomes can be relied on.
        """
        return self.influence * self.error(outcome)

    def error(self, outcome: Outcome) -> float:
        """The relative squared error of the layer's own output: noise / signal."""
        return outcome.noise / self.signal if self.signal > 0 else 0.0

    @property
    def kept(self) -> Outcome:
        """The outcome of ``keep``; of a layer that cannot stay as it is the one with the least noise."""
        return self.outcome(Choice(KEEP)) or min(self.outcomes, key=lambda outcome: outcome.noise)

    def outcome(self, choice: Choice) -> Outcome | None:
        """The outcome of one choice, None when the layer does not have it."""
        return next((found for found in self.outcomes if found.choice == choice), None)

    def of_policy(self, policy: str) -> tuple[Outcome, ...]:
        """The outcomes in one format, least noise first."""
        found = (outcome for outcome in self.outcomes if outcome.choice.policy == policy)
        return tuple(sorted(found, key=lambda outcome: outcome.noise))


@dataclass(frozen=True)
class Sensitivity:
    """A model measured.

    ``source``: the file's name; ``fingerprint``: SHA-256 over its index and samples of its weights, hexadecimal.
    ``family``: as ``detect_family`` names it. ``calibration``: how it is called; ``input_scale``: the policy by which
    ranges followed from it. ``weighting``: how rows of different noise count, a key of ``WEIGHTINGS``. ``kernels``:
    name of the table of speeds. ``other_bytes``: of the file without these layers. ``other_time``: seconds of one
    evaluation that no format changes.
    """

    source: str
    fingerprint: str
    family: str
    calibration: str
    input_scale: str
    weighting: str
    kernels: str
    other_bytes: int
    other_time: float
    layers: tuple[LayerSensitivity, ...]
    details: Mapping[str, str] = field(default_factory=dict)
    """What else a reader should know, in words: device, time taken."""

    @property
    def choices(self) -> frozenset[Choice]:
        """The choices that any layer has."""
        return frozenset(outcome.choice for layer in self.layers for outcome in layer.outcomes)

    @property
    def influence_measured(self) -> bool:
        """Whether sums of shares are of the model's output and not only of its layers'."""
        return any(layer.influence != 1 for layer in self.layers)

    def layer(self, module: str) -> LayerSensitivity | None:
        return next((layer for layer in self.layers if layer.module == module), None)

    def bytes_of(self, chosen: Mapping[str, Outcome]) -> int:
        """Bytes of the file without its header, given an outcome for each module."""
        return self.other_bytes + sum(chosen[layer.module].bytes for layer in self.layers)

    def error_of(self, chosen: Mapping[str, Outcome]) -> float:
        """The predicted relative squared error of the model's output, given an outcome for each module."""
        return math.fsum(layer.share(chosen[layer.module]) for layer in self.layers)

    def speed_of(self, chosen: Mapping[str, Outcome]) -> float:
        """The predicted speed as a multiple of the same model in FP8, given an outcome for each module."""
        fp8 = self.other_time + math.fsum(layer.fp8_time for layer in self.layers)
        now = self.other_time + math.fsum(chosen[layer.module].time for layer in self.layers)
        return fp8 / now if now > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """Everything, with the derived decibels and labels that make it readable."""
        head = {key: value for key, value in vars(self).items() if key not in ("layers", "details")}
        return {
            "format": FORMAT,
            "version": VERSION,
            **head,
            "details": dict(self.details),
            "layers": [layer_to_json(layer) for layer in self.layers],
        }


def decibels(share: float) -> float:
    """−10·log10 of a relative squared error; infinity for none."""
    return -10 * math.log10(share) if share > 0 else math.inf


def layer_to_json(layer: LayerSensitivity) -> dict[str, Any]:
    return {**vars(layer), "shape": list(layer.shape), "outcomes": [_outcome_to_json(o, layer) for o in layer.outcomes]}


def _outcome_to_json(outcome: Outcome, layer: LayerSensitivity) -> dict[str, Any]:
    error, share = layer.error(outcome), layer.share(outcome)
    told = {"label": outcome.choice.label, "sqnr_db": round(decibels(error), 4) if error > 0 else None, "share": share}
    return {**told, **vars(outcome.choice), "bytes": outcome.bytes, "noise": outcome.noise, "time": outcome.time}
