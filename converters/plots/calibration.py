"""A whole calibration in one picture."""

from __future__ import annotations

from ...calibration import Calibration
from ...calibration.report import CalibrationReport, calibration_report
from .canvas import Picture, stacked
from .coverage import profile_plot, schedule_plot
from .histograms import layer_histograms
from .ranges import depth_plot, range_plot


def calibration_plot(calibration: Calibration, report: CalibrationReport | None = None) -> Picture:
    """A page of what a calibration holds: inputs by layer type and block, noise schedule, distributions.

    What is not known (an imported calibration has no schedule and no distributions) is left out. `report` is
    that of the same calibration, made anew when not given.
    """
    report = report or calibration_report(calibration)
    parts = [
        range_plot(report),
        depth_plot(report),
        schedule_plot(report) if report.steps else None,
        profile_plot(report),
        layer_histograms(calibration, report),
    ]
    return stacked([part for part in parts if part is not None])
