"""What a conversion will write, decided before a byte is written: a value to print, save and compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from .containers.layout import TensorSpec, lay_out
from .options import Options
from .rounding import SEARCH


@dataclass(frozen=True)
class LayerDecision:
    """What becomes of one weight.

    ``name`` is the layer's name in the output, ``source_name`` in the source, ``module`` in the
    model's module tree (without prefix). ``action`` is ``quantize`` (weights change) or ``copy``
    (bytes of the weight are identical). ``input_amax`` is the largest activation that fits, in the
    activation's own units; ``input_scale`` what is written; both None for dynamic or unquantized
    activations. ``clip_rate`` is the predicted share of activations beyond ``input_amax``.
    ``rounding`` is the method, a key of ``METHODS``, of a weight that becomes NVFP4; ``pre_quant_exponent`` that of
    its pre_quant_scale, None without one; ``gain`` whether its tensor scale has a constant gain.
    """

    name: str
    source_name: str
    module: str
    component: str
    shape: tuple[int, int]
    source_format: str
    format: str
    action: str
    reason: str
    tag: Mapping[str, Any] | None
    input_amax: float | None
    input_scale: float | None
    clip_rate: float | None
    repairs: tuple[str, ...]
    notes: tuple[str, ...]
    bytes_before: int
    outputs: tuple[TensorSpec, ...]
    rounding: str = ""
    pre_quant_exponent: float | None = None
    gain: bool = False

    @property
    def bytes_after(self) -> int:
        return sum(spec.nbytes for spec in self.outputs)

    @property
    def full_precision(self) -> bool:
        """True when ComfyUI computes this layer without quantizing its input."""
        return bool(self.tag and self.tag.get("full_precision_matrix_mult"))

    @property
    def activations(self) -> str:
        """How ComfyUI scales the input, in a word or number; empty for a layer that only passes through."""
        if self.full_precision:
            return "full precision"
        if self.input_scale is not None:
            return f"{self.input_scale:.4g}"
        return "dynamic" if self.action == "quantize" else ""

    def to_json(self) -> dict[str, Any]:
        data = {key: value for key, value in asdict(self).items() if key not in ("outputs", "shape")}
        return {**data, "shape": list(self.shape), "bytes_after": self.bytes_after}


@dataclass(frozen=True)
class Outcome:
    """What became of an NVFP4 layer that the plan could not know: the method that was used, and what was not, and why."""

    rounding: str
    notes: tuple[str, ...]

    def to_json(self) -> list[str]:
        """The method, then the notes."""
        return [self.rounding, *self.notes]

    @classmethod
    def from_json(cls, texts: list[str]) -> Outcome:
        return cls(texts[0], tuple(texts[1:]))


@dataclass(frozen=True)
class Copy:
    """A tensor that passes through byte for byte, possibly under another name."""

    source_name: str
    spec: TensorSpec


@dataclass(frozen=True)
class Constant:
    """A small tensor whose bytes are known beforehand: the tag of a weight that is carried over."""

    spec: TensorSpec
    data: bytes


@dataclass(frozen=True)
class Plan:
    """All decisions about one source with one set of options.

    ``recipe_content`` is the whole recipe unless it is a built-in one, which its name tells.
    """

    source: str
    family: str
    family_title: str
    prefix: str
    recipe: str
    options: Options
    calibration: str | None
    layers: tuple[LayerDecision, ...]
    copies: tuple[Copy, ...]
    constants: tuple[Constant, ...]
    metadata: Mapping[str, str]
    repairs: tuple[str, ...]
    warnings: tuple[str, ...]
    source_bytes: int
    output_bytes: int = field(default=0)
    recipe_content: Mapping[str, Any] | None = None

    def specs(self) -> list[TensorSpec]:
        """Every tensor of the output."""
        written = [spec for layer in self.layers for spec in layer.outputs]
        return [*written, *(copy.spec for copy in self.copies), *(constant.spec for constant in self.constants)]

    def with_size(self) -> Plan:
        """The same plan with ``output_bytes``, header included."""
        head, _ = lay_out(self.specs(), self.metadata)
        return replace(self, output_bytes=len(head) + sum(spec.nbytes for spec in self.specs()))

    def with_metadata(self, metadata: Mapping[str, str]) -> Plan:
        """The same plan with the output's header metadata."""
        return replace(self, metadata=metadata)

    def after(self, outcomes: Mapping[str, Outcome]) -> Plan:
        """The same plan as it was carried out: layers, by their names, with what became of them."""
        changed = tuple(
            replace(layer, rounding=found.rounding, notes=(*layer.notes, *found.notes))
            if (found := outcomes.get(layer.name)) is not None
            else layer
            for layer in self.layers
        )
        new = notes_of({layer.name: found.notes for layer in self.layers if (found := outcomes.get(layer.name))})
        return replace(self, layers=changed, warnings=(*self.warnings, *new))

    def count(self, component: str = "diffusion_model") -> dict[str, int]:
        """Layers by output format."""
        return dict(Counter(layer.format for layer in self.layers if layer.component == component).most_common())

    def encoder_lines(self) -> tuple[str, ...]:
        """What becomes of text encoders, in a sentence; nothing where they pass through."""
        if self.options.text_encoder == "keep":
            return ()
        formats = ", ".join(f"{count} {name}" for name, count in self.count("text_encoder").items())
        return (
            f"layers of text encoders: {formats}; ComfyUI computes them in full precision: memory is saved, not time",
        )

    def measured_lines(self) -> tuple[str, ...]:
        """How many NVFP4 layers have a pre_quant_scale and a gain, a sentence each; nothing where there is none to tell."""
        packed = [layer for layer in self.layers if layer.rounding and layer.component == "diffusion_model"]
        scaled = sum(layer.pre_quant_exponent is not None for layer in packed)
        gained = sum(layer.gain for layer in packed)
        lines = []
        if scaled or self.options.pre_quant == SEARCH:
            lines.append(f"pre_quant_scale: {scaled} of {len(packed)} NVFP4 layers")
        if gained:
            lines.append(f"gain: {gained} of {len(packed)} NVFP4 layers, in those whose outputs lack their length")
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the bytes, for programs."""
        return {
            "source": self.source,
            "family": self.family,
            "recipe": self.recipe,
            "options": self.options.to_json(),
            "calibration": self.calibration,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "formats": self.count(),
            "repairs": list(self.repairs),
            "warnings": list(self.warnings),
            "copied_tensors": len(self.copies),
            "layers": [layer.to_json() for layer in self.layers],
        }

    def to_markdown(self) -> str:
        """The plan as a page for people."""
        formats = ", ".join(f"{count} {name}" for name, count in self.count().items())
        lines = [
            f"# Plan for {self.source}",
            "",
            f"- model: {self.family_title} ({self.family}), recipe `{self.recipe}`, rounding `{self.options.rounding}`",
            f"- activations: `{self.options.input_scale}`"
            + (f" from calibration {self.calibration}" if self.calibration else " (no calibration)"),
            f"- layers: {formats}",
            *(f"- {line}" for line in (*self.encoder_lines(), *self.measured_lines())),
            f"- size: {self.source_bytes / 1e6:.1f} MB → {self.output_bytes / 1e6:.1f} MB"
            f" ({self.output_bytes / max(1, self.source_bytes):.2f}×)",
            *(f"- warning: {text}" for text in self.warnings),
            *(f"- repair: {text}" for text in self.repairs),
            "",
            "| layer | shape | from | to | input_scale | clip rate | reason |",
            "|---|---|---|---|---|---|---|",
        ]
        for layer in self.layers:
            clip = "" if layer.clip_rate is None else f"{layer.clip_rate:.2g}"
            lines.append(
                f"| {layer.name} | {layer.shape[0]}×{layer.shape[1]} | {layer.source_format} | {layer.format} "
                f"| {layer.activations} | {clip} | {layer.reason} |"
            )
        return "\n".join(lines) + "\n"


def notes_of(layers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One line for each note, however many layers have it."""
    owners: dict[str, list[str]] = {}
    for name, notes in layers.items():
        for note in notes:
            owners.setdefault(note, []).append(name)
    return [
        f"{names[0]}: {note}" if len(names) == 1 else f"{len(names)} layers, first {names[0]}: {note}"
        for note, names in owners.items()
    ]


def spec(layer: str, suffix: str, dtype: torch.dtype, shape: tuple[int, ...]) -> TensorSpec:
    """The declaration of one tensor of a layer."""
    return TensorSpec(f"{layer}.{suffix}", dtype, shape)
