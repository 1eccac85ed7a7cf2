"""What is wrong with the files that a card is made of."""

from __future__ import annotations

from ...calibration.errors import StudioError


class CardError(StudioError):
    """A file cannot be used for the card, or belongs to another model."""
