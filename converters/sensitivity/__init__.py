"""How much each layer's output suffers in each format: measured on rows of its input that were kept while calibrating."""

from __future__ import annotations

from .document import from_json, load, save
from .values import KEEP, Choice, LayerSensitivity, Outcome, Sensitivity, decibels

__all__ = ["KEEP", "Choice", "LayerSensitivity", "Outcome", "Sensitivity", "decibels", "from_json", "load", "save"]
