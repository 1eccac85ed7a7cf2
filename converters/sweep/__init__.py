"""Many configurations over one source, each with its predicted size, speed and error, without writing a file."""

from __future__ import annotations

from .configurations import Asked, Configuration, configurations
from .evaluation import Row, SweepResult
from .run import sweep
from .simulated import SIMULATED

__all__ = ["SIMULATED", "Asked", "Configuration", "Row", "SweepResult", "configurations", "sweep"]
