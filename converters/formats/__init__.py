"""Stored formats, one file each behind the signature ``format.Format``."""

from __future__ import annotations

from collections.abc import Mapping

from . import convrot_w4a4, fp8, int8, mxfp8, nvfp4, w4a8_int8
from .format import Encoding, Fields, Format, InputScale, Rows, Stored
from .weight import Weight

__all__ = [
    "FORMATS",
    "POLICIES",
    "Encoding",
    "Fields",
    "Format",
    "InputScale",
    "Rows",
    "Stored",
    "Weight",
    "policy_of",
]

FORMATS: Mapping[str, Format] = {
    fp8.NAME: fp8,
    fp8.E5M2_NAME: fp8,
    nvfp4.NAME: nvfp4,
    mxfp8.NAME: mxfp8,
    int8.NAME: int8,
    convrot_w4a4.NAME: convrot_w4a4,
    w4a8_int8.NAME: w4a8_int8,
}
"""By ComfyUI's name. Both FP8 types are one format of which E4M3 is written."""

POLICIES: Mapping[str, Format] = {policy: stored for stored in FORMATS.values() for policy in stored.POLICIES}
"""By the name that a recipe asks for."""


def policy_of(name: str, tag: Fields) -> str | None:
    """The policy that asks for a format with these fields of its tag: of those that fit the one that says most.

    None where no policy asks for it: a plain dtype, E5M2, or a variant that is carried over and never written.
    """
    fitting = [
        policy
        for policy, stored in POLICIES.items()
        if name == stored.NAME and stored.POLICIES[policy].items() <= tag.items()
    ]
    return max(fitting, key=lambda policy: len(POLICIES[policy].POLICIES[policy]), default=None)
