"""Stored formats, one file each behind the signature ``format.Format``."""

from __future__ import annotations

from collections.abc import Mapping

from . import fp8, nvfp4
from .format import Encoding, Fields, Format, InputScale, Rows, Stored
from .weight import Weight

__all__ = ["FORMATS", "POLICIES", "Encoding", "Fields", "Format", "InputScale", "Rows", "Stored", "Weight"]

FORMATS: Mapping[str, Format] = {fp8.NAME: fp8, fp8.E5M2_NAME: fp8, nvfp4.NAME: nvfp4}
"""By ComfyUI's name. Both FP8 types are one format of which E4M3 is written."""

POLICIES: Mapping[str, Format] = {policy: stored for stored in FORMATS.values() for policy in stored.POLICIES}
"""By the name that a recipe asks for."""
