"""What NVFP4CalibrationReport shows: plots, a page in Markdown, and a few lines on the node."""

from __future__ import annotations

import numpy as np
import torch

from ..calibration import calibration_report, compare, comparison_sections, load, markdown, report_sections
from ..converters.plots import calibration_plot, comparison_plot, stacked
from .library import CALIBRATIONS
from .texts import coverage_text


def reported(calibration: str, other: str | None) -> tuple[torch.Tensor, str, str]:
    """Image [1, H, W, 3] in 0..1, page and status of a calibration, alone or against another one.

    Raises:
        HostError: there is no such calibration.
        CalibrationError: it cannot be read.
    """
    statistics = load(CALIBRATIONS.existing(calibration))
    report = calibration_report(statistics, calibration)
    page = markdown(f"Calibration {calibration}", report_sections(report))
    plots = [calibration_plot(statistics, report)]
    comparison = None
    if other is not None:
        comparison = compare(load(CALIBRATIONS.existing(other)), statistics, other, calibration)
        page += "\n" + markdown(f"{calibration} against {other}", comparison_sections(comparison))
        plots.append(comparison_plot(comparison))
    image = torch.from_numpy(np.asarray(stacked(plots), dtype=np.float32) / 255)[None]
    return image, page, f"{calibration}: {coverage_text(statistics, report, comparison)}"
