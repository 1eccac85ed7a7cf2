"""Conversion of a checkpoint to mixed NVFP4/FP8: read, plan, write, verify.

Knows no host: progress and cancel come in as two small callables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..calibration.lazy import exports

if TYPE_CHECKING:
    from .convert import convert
    from .encoders import TEXT_ENCODER_CHOICES
    from .errors import Cancelled, ConversionError, PlanError, SourceError, VerificationError
    from .families import Family, detect_family
    from .options import LAYOUTS, Options
    from .pins import Pin
    from .plan import LayerDecision, Plan
    from .planning.decide import make_plan
    from .recipe import Recipe, with_pins
    from .recipe_file import available_recipes, load_recipe, recipe_to_json, save_recipe
    from .report import Report, report_stem
    from .rounding import DEFAULT_ROUNDING, PRE_QUANT_CHOICES, ROUNDINGS
    from .source import Source, open_source
    from .verify import Verification, verify

__all__ = [
    "DEFAULT_ROUNDING",
    "LAYOUTS",
    "PRE_QUANT_CHOICES",
    "ROUNDINGS",
    "TEXT_ENCODER_CHOICES",
    "Cancelled",
    "ConversionError",
    "Family",
    "LayerDecision",
    "Options",
    "Pin",
    "Plan",
    "PlanError",
    "Recipe",
    "Report",
    "Source",
    "SourceError",
    "Verification",
    "VerificationError",
    "available_recipes",
    "convert",
    "detect_family",
    "load_recipe",
    "make_plan",
    "open_source",
    "recipe_to_json",
    "report_stem",
    "save_recipe",
    "verify",
    "with_pins",
]

exports(
    __name__,
    {
        "convert": ("convert",),
        "encoders": ("TEXT_ENCODER_CHOICES",),
        "errors": ("Cancelled", "ConversionError", "PlanError", "SourceError", "VerificationError"),
        "families": ("Family", "detect_family"),
        "options": ("LAYOUTS", "Options"),
        "pins": ("Pin",),
        "plan": ("LayerDecision", "Plan"),
        "planning.decide": ("make_plan",),
        "recipe": ("Recipe", "with_pins"),
        "recipe_file": ("available_recipes", "load_recipe", "recipe_to_json", "save_recipe"),
        "report": ("Report", "report_stem"),
        "rounding": ("DEFAULT_ROUNDING", "PRE_QUANT_CHOICES", "ROUNDINGS"),
        "source": ("Source", "open_source"),
        "verify": ("Verification", "verify"),
    },
)
