"""What the user chose, as every step of a conversion is told it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from .recipe import Recipe
from .recipe_file import recipe_to_json
from .rounding import DEFAULT_ROUNDING, OFF

LAYOUTS = ("source", "checkpoint", "diffusion-model")
DEFAULT_INPUT_SCALE = "p99.9"


@dataclass(frozen=True)
class Options:
    """What the user chose.

    ``recipe``: a built-in name, a path to a ``.json`` file, a ready ``Recipe``, or None for the family's default.
    ``rounding``: a key of ``ROUNDINGS``. ``input_scale``: a key of ``calibration.POLICIES``.
    ``layout``: ``source`` keeps what the source has, ``checkpoint`` keeps an all-in-one file with its
    prefixes, ``diffusion-model`` strips the prefix and leaves text encoder and VAE out.
    ``text_encoder``: a key of ``TEXT_ENCODER_CHOICES``, for the text encoders inside an all-in-one file.
    ``pre_quant``: a key of ``PRE_QUANT_CHOICES``. A search is ``convert``'s, before it plans; a plan has what its recipe pins.
    ``gain``: a constant gain in every NVFP4 layer of the diffusion model whose held-out outputs are shortened or lengthened.
    """

    recipe: str | Recipe | None = None
    rounding: str = DEFAULT_ROUNDING
    input_scale: str = DEFAULT_INPUT_SCALE
    layout: str = "source"
    text_encoder: str = "keep"
    pre_quant: str = OFF
    gain: bool = False

    def to_json(self) -> dict[str, Any]:
        """The choices by their names; a ready recipe with its whole content."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**chosen, "recipe": recipe_to_json(self.recipe)} if isinstance(self.recipe, Recipe) else chosen
