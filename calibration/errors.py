"""Errors that a user can act on: one sentence with the value found and the way out."""

from __future__ import annotations


class StudioError(Exception):
    """Base of every error that nvfp4-studio raises on purpose; its text is shown to the user as it is."""


class CalibrationError(StudioError):
    """A calibration cannot be read, merged or applied."""
