"""How far two pictures are apart: PSNR, SSIM, HaarPSI, a map of the difference, and how sure a mean of them is.

Pictures are ComfyUI's: ``[B, H, W, C]``, floating point 0..1 or uint8 0..255, C 1 (grey), 3 (RGB) or 4 (alpha is left
out). Every metric gives one number for each of the B pairs.
"""

from __future__ import annotations

from .difference import absolute_difference, fitting_gain
from .haarpsi import haarpsi
from .intervals import Interval, mean_interval, student_t
from .pairs import as_saved, nonfinite
from .scores import Scores, Summary, score, summarise
from .signal import psnr
from .ssim import ssim
from .trajectory import Kept, Trajectory, relative_rms

__all__ = [
    "Interval",
    "Kept",
    "Scores",
    "Summary",
    "Trajectory",
    "absolute_difference",
    "as_saved",
    "fitting_gain",
    "haarpsi",
    "mean_interval",
    "nonfinite",
    "psnr",
    "relative_rms",
    "score",
    "ssim",
    "student_t",
    "summarise",
]
