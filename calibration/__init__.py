"""Activation statistics: collecting them while a model runs, keeping them in a file, deriving scales.

Needs torch and safetensors only; knows neither ComfyUI nor the converters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import exports

if TYPE_CHECKING:
    from .collector import Collector
    from .comparison import Comparison, compare
    from .convergence import Convergence
    from .coverage import SCHEDULE_BINS, Coverage
    from .detail import DEFAULT_DETAIL, DETAIL_HELP, DETAILS, Cost, details_cost
    from .errors import CalibrationError, StudioError
    from .exchange import FORMS, export_json, import_json
    from .fingerprint import alike, sample_rows, samples_from_rows, tensor_samples, weight_samples
    from .histogram import BINS, BINS_PER_OCTAVE, bin_index, fraction_above, lower_edges, percentile, upper_edges
    from .matching import mismatches, other_weights_than
    from .observers import Observation, observe
    from .page import Section, markdown
    from .prompts import Prompts, conditioning_digest
    from .report import CalibrationReport, calibration_report
    from .report_text import comparison_sections, report_sections
    from .scales import DEFAULT_POLICY, POLICIES, ActivationRange, activation_range, input_scale
    from .selection import linear_layers
    from .statistics import PASSES, Calibration, LayerStatistics
    from .store import load, merge_files, save

__all__ = [
    "ActivationRange",
    "BINS",
    "BINS_PER_OCTAVE",
    "Calibration",
    "CalibrationError",
    "CalibrationReport",
    "Collector",
    "Comparison",
    "Convergence",
    "Cost",
    "Coverage",
    "DEFAULT_DETAIL",
    "DEFAULT_POLICY",
    "DETAILS",
    "DETAIL_HELP",
    "FORMS",
    "LayerStatistics",
    "Observation",
    "PASSES",
    "POLICIES",
    "Prompts",
    "SCHEDULE_BINS",
    "Section",
    "StudioError",
    "activation_range",
    "alike",
    "bin_index",
    "calibration_report",
    "compare",
    "comparison_sections",
    "conditioning_digest",
    "details_cost",
    "export_json",
    "fraction_above",
    "import_json",
    "input_scale",
    "linear_layers",
    "load",
    "lower_edges",
    "markdown",
    "merge_files",
    "mismatches",
    "observe",
    "other_weights_than",
    "percentile",
    "report_sections",
    "sample_rows",
    "samples_from_rows",
    "save",
    "tensor_samples",
    "upper_edges",
    "weight_samples",
]

exports(
    __name__,
    {
        "collector": ("Collector",),
        "comparison": ("Comparison", "compare"),
        "convergence": ("Convergence",),
        "coverage": ("Coverage", "SCHEDULE_BINS"),
        "detail": ("Cost", "DEFAULT_DETAIL", "DETAILS", "DETAIL_HELP", "details_cost"),
        "errors": ("CalibrationError", "StudioError"),
        "exchange": ("FORMS", "export_json", "import_json"),
        "fingerprint": ("alike", "sample_rows", "samples_from_rows", "tensor_samples", "weight_samples"),
        "histogram": (
            "BINS",
            "BINS_PER_OCTAVE",
            "bin_index",
            "fraction_above",
            "lower_edges",
            "percentile",
            "upper_edges",
        ),
        "matching": ("mismatches", "other_weights_than"),
        "observers": ("Observation", "observe"),
        "page": ("Section", "markdown"),
        "prompts": ("Prompts", "conditioning_digest"),
        "report": ("CalibrationReport", "calibration_report"),
        "report_text": ("comparison_sections", "report_sections"),
        "scales": ("ActivationRange", "DEFAULT_POLICY", "POLICIES", "activation_range", "input_scale"),
        "selection": ("linear_layers",),
        "statistics": ("Calibration", "LayerStatistics", "PASSES"),
        "store": ("load", "merge_files", "save"),
    },
)
