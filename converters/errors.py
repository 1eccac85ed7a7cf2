"""Errors of reading, planning, writing and verifying a checkpoint."""

from __future__ import annotations

from ..calibration.errors import StudioError


class SourceError(StudioError):
    """The source is not a checkpoint that can be converted."""


class PlanError(StudioError):
    """No valid plan exists for this source with these options."""


class ConversionError(StudioError):
    """The plan cannot be carried out: no space, target exists, write error."""


class TargetExists(ConversionError):
    """The target is there and was not to be overwritten."""


class SensitivityError(StudioError):
    """A sensitivity cannot be measured, read or written."""


class VerificationError(StudioError):
    """The written file is not what was planned."""


class PictureError(StudioError):
    """Two pictures cannot be compared."""


class Cancelled(StudioError):
    """The user cancelled, or another thread failed; the sentence tells what was left behind."""
