"""Activation statistics: collecting them while a model runs, keeping them in a file, deriving scales.

Needs torch and safetensors only; knows neither ComfyUI nor the converters.
"""

from __future__ import annotations

from .collector import Collector
from .errors import CalibrationError, StudioError
from .exchange import FORMS, export_json, import_json
from .histogram import BINS, BINS_PER_OCTAVE, bin_index, fraction_above, lower_edges, percentile, upper_edges
from .matching import mismatches
from .observers import LayerObserver, Observation, observe
from .scales import DEFAULT_POLICY, POLICIES, ActivationRange, activation_range, input_scale
from .selection import linear_layers
from .statistics import SCHEDULE_BINS, Calibration, Coverage, LayerStatistics
from .store import load, merge_files, save

__all__ = [
    "BINS",
    "BINS_PER_OCTAVE",
    "DEFAULT_POLICY",
    "FORMS",
    "POLICIES",
    "SCHEDULE_BINS",
    "ActivationRange",
    "Calibration",
    "CalibrationError",
    "Collector",
    "Coverage",
    "LayerObserver",
    "LayerStatistics",
    "Observation",
    "StudioError",
    "activation_range",
    "bin_index",
    "export_json",
    "fraction_above",
    "import_json",
    "input_scale",
    "linear_layers",
    "lower_edges",
    "load",
    "merge_files",
    "mismatches",
    "observe",
    "percentile",
    "save",
    "upper_edges",
]
