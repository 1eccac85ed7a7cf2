"""How much each layer's output suffers in each format: measured on rows of its input that were kept while calibrating."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...calibration.lazy import exports

if TYPE_CHECKING:
    from .choices import choices_of
    from .document import from_json, load, save
    from .identity import source_fingerprint
    from .influence import (
        Prober,
        Probes,
        added_probes,
        beside,
        influence_summary,
        keep_beside,
        load_influence,
        load_probes,
        merged_influence,
        save_influence,
    )
    from .measuring import discard_unfinished, measure_and_save, measure_sensitivity
    from .planned import outcome_of, outcomes_of_plan
    from .values import KEEP, Choice, LayerSensitivity, Outcome, Sensitivity, decibels
    from .weighting import DEFAULT_WEIGHTING, WEIGHTINGS

__all__ = [
    "DEFAULT_WEIGHTING",
    "KEEP",
    "WEIGHTINGS",
    "Choice",
    "LayerSensitivity",
    "Outcome",
    "Prober",
    "Probes",
    "Sensitivity",
    "added_probes",
    "beside",
    "choices_of",
    "decibels",
    "discard_unfinished",
    "from_json",
    "influence_summary",
    "keep_beside",
    "load",
    "load_influence",
    "load_probes",
    "measure_and_save",
    "measure_sensitivity",
    "merged_influence",
    "outcome_of",
    "outcomes_of_plan",
    "save",
    "save_influence",
    "source_fingerprint",
]

exports(
    __name__,
    {
        "choices": ("choices_of",),
        "document": ("from_json", "load", "save"),
        "identity": ("source_fingerprint",),
        "influence": (
            "Prober",
            "Probes",
            "added_probes",
            "beside",
            "influence_summary",
            "keep_beside",
            "load_influence",
            "load_probes",
            "merged_influence",
            "save_influence",
        ),
        "measuring": ("discard_unfinished", "measure_and_save", "measure_sensitivity"),
        "planned": ("outcome_of", "outcomes_of_plan"),
        "values": ("Choice", "KEEP", "LayerSensitivity", "Outcome", "Sensitivity", "decibels"),
        "weighting": ("DEFAULT_WEIGHTING", "WEIGHTINGS"),
    },
)
