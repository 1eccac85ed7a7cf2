"""What is known while a source is being planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...calibration import Calibration, LayerStatistics
from ..containers.layout import TensorSpec
from ..encoders import Encoder
from ..families import Family, component, encoder_prefix
from ..layers import Recognised, SourceLayer, todays_name
from ..options import Options
from ..pins import Pin
from ..recipe import Blocks, Recipe
from ..source import Source


@dataclass(frozen=True)
class Context:
    """Everything that a decision about one layer may look at."""

    source: Source
    recognised: Recognised
    family: Family
    recipe: Recipe
    blocks: Blocks
    options: Options
    calibration: Calibration | None
    encoders: Mapping[str, Encoder]

    def output_name(self, name: str) -> str:
        """The name in the output: without prefix when only the diffusion model is kept."""
        prefix = self.family.prefix
        return name[len(prefix) :] if self.options.layout == "diffusion-model" and name.startswith(prefix) else name

    def part(self, name: str) -> str:
        """``diffusion_model``, ``text_encoder`` or ``other``."""
        return component(name, self.family.prefix)

    def kept(self, name: str) -> bool:
        """False for what the layout leaves out."""
        return self.options.layout != "diffusion-model" or self.part(name) == "diffusion_model"

    def module(self, layer: SourceLayer) -> str:
        """The layer's name in the model's module tree, by which calibrations call it."""
        return layer.name[len(self.family.prefix) :]

    def pin(self, module: str) -> Pin | None:
        """What the recipe says about this very layer of the diffusion model, None for nothing."""
        return self.recipe.layers.get(module)

    def encoder(self, layer: SourceLayer) -> Encoder | None:
        """The text encoder that a layer belongs to, None outside."""
        return self.encoders.get(encoder_prefix(layer.name))

    def statistics(self, module: str) -> LayerStatistics | None:
        """What was seen of a layer's inputs, None without a calibration or when it never ran."""
        found = self.calibration.layers.get(module) if self.calibration is not None else None
        return found if found is not None and found.calls else None

    def rows_kept(self, module: str) -> bool:
        """Whether a calibration kept rows of a layer's input, on which its outputs can be measured."""
        statistics = self.statistics(module)
        return statistics is not None and statistics.reservoir is not None and len(statistics.reservoir.hashes) > 0

    def unchanged(self, name: str) -> TensorSpec:
        """The declaration of a tensor that passes through."""
        info = self.source.tensors[name]
        return TensorSpec(self.output_name(name), info.torch_dtype, info.shape)

    def unchanged_companion(self, name: str) -> TensorSpec:
        """The declaration of a companion that passes through under its name of today."""
        spec = self.unchanged(name)
        return TensorSpec(todays_name(spec.name), spec.dtype, spec.shape)
