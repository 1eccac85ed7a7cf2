"""Text encoders inside an all-in-one checkpoint: which of them are converted, and by which recipe.

ComfyUI computes every text encoder in full precision, so quantized weights there save memory, not time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .errors import PlanError
from .families import Family, detect_encoders, encoder_prefix
from .formats import fp8, nvfp4
from .layers import SourceLayer
from .recipe import Blocks, Recipe
from .recipe_file import load_recipe
from .source import Source

TEXT_ENCODER_CHOICES: Mapping[str, str] = {
    "keep": "as they are",
    "fp8": "the layers that the encoder's recipe names, all in FP8",
    "nvfp4": "the encoder's recipe: MLP in NVFP4, attention in FP8, first and last layers as they are",
}


@dataclass(frozen=True)
class Encoder:
    """One text encoder. ``recipe`` is None for one that passes through."""

    family: Family
    recipe: Recipe | None
    blocks: Blocks

    def module(self, layer: SourceLayer) -> str:
        """The layer's name within the encoder."""
        return layer.name[len(self.family.prefix) :]

    def policy(self, layer: SourceLayer, choice: str) -> tuple[str, str]:
        """The policy for one weight and the reason in a few words."""
        if self.recipe is None:
            return "keep", "text encoder"
        policy, reason = self.recipe.policy(f"{self.module(layer)}.weight", layer.shape, self.blocks)
        if policy != "keep" and self.family.guards(self.module(layer)):
            return "keep", "text encoder, not a linear layer"
        policy = fp8.NAME if policy == nvfp4.NAME and choice == "fp8" else policy
        return policy, f"text encoder, {reason}"


def find_encoders(source: Source, choice: str) -> dict[str, Encoder]:
    """The text encoders of a checkpoint by their key prefixes, with their recipes as the choice says.

    Raises:
        PlanError: an unknown choice, or no encoder that could be converted although one is asked for.
    """
    if choice not in TEXT_ENCODER_CHOICES:
        raise PlanError(
            f"There is no choice {choice!r} for text encoders; choose one of {', '.join(TEXT_ENCODER_CHOICES)}."
        )
    families = detect_encoders(source.tensors)
    names: dict[str, list[str]] = {prefix: [] for prefix in families}
    for name in source.tensors:
        prefix = encoder_prefix(name)
        if prefix and name.endswith(".weight"):
            names[prefix].append(name[len(prefix) :])
    found = {}
    for prefix, family in families.items():
        converted = choice != "keep" and family.default_recipe
        recipe = load_recipe(family.default_recipe) if converted else None
        found[prefix] = Encoder(family, recipe, Blocks.find(names[prefix]))
    if choice != "keep" and not any(encoder.recipe for encoder in found.values()):
        raise PlanError(
            f"{source.path.name} has no text encoder that ComfyUI would load quantized (found: {_listed(found)}); "
            "keep text encoders as they are."
        )
    return found


def _listed(prefixes: Iterable[str]) -> str:
    """Encoders by their key prefixes; keys like ``text_encoders.model.layers.0`` name none, however much like one they look."""
    prefixes = sorted(prefixes)
    called = []
    for prefix in prefixes:
        named = not prefix.startswith("text_encoders.") or prefix.endswith(".transformer.")
        if named:
            called.append(prefix.rstrip("."))
        elif f"{prefix}transformer." not in prefixes:
            called.append(f"keys in {prefix.rstrip('.')}, which name no encoder as text_encoders.NAME.transformer does")
    return ", ".join(called) or "none"
