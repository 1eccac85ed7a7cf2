"""What each format does to ordinary weights: the error to expect of a layer that nobody has measured.

SQNR in dB, 10·log10(Σ w² / Σ (w − Q(w))²), of normally distributed weights [1024, 1024] that are rounded by this
package's own formats; ``tests/unit/converters/test_typical.py`` measures them again. Methods that look at a layer's
inputs trade weight error for output error, so theirs are the mean weight errors of ``benchmarks/picture_quality.py``
on two trained models. A layer of one model is usually within 1 dB of these figures, and within 5 dB where few
channels stick out.
"""

from __future__ import annotations

from collections.abc import Mapping

from .formats import nvfp4

SQNR_DB: Mapping[str, float] = {
    "float8_e4m3fn": 31.5,
    "mxfp8": 31.5,
    "int8_tensorwise": 42.1,
    "convrot_w4a4": 16.9,
    "asym_w4a8_int8": 22.7,
}
"""By format, NVFP4 apart."""
NVFP4_SQNR_DB: Mapping[str, float] = {
    "nearest": 20.4,
    "four-over-six": 21.2,
    "block-search": 21.6,
    "block-search-mse": 21.8,
    "weighted": 21.1,
    "gptq": 19.6,
}
"""By rounding method."""


def typical_sqnr_db(stored: str, rounding: str) -> float | None:
    """The figure for a format and, for NVFP4, its rounding method; None for a format that this package does not write."""
    return NVFP4_SQNR_DB.get(rounding) if stored == nvfp4.NAME else SQNR_DB.get(stored)
