"""What the adapter itself can refuse."""

from __future__ import annotations

from ..calibration.errors import StudioError


class HostError(StudioError):
    """ComfyUI lacks something that a node needs, or a file that a widget or a request names is not there."""
