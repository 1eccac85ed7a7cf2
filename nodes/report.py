"""NVFP4CalibrationReport: what a calibration file holds, as text and as a plot, alone or against another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..calibration import calibration_report, compare, comparison_sections, load, markdown, report_sections
from ..calibration.errors import StudioError
from ..converters.plots import calibration_plot, comparison_plot, stacked
from . import host
from .library import CALIBRATIONS
from .texts import coverage_text


class NVFP4CalibrationReport(io.ComfyNode):
    """Reads one file and draws it; it needs no model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4CalibrationReport",
            display_name="NVFP4 Calibration Report",
            category="NVFP4 Studio",
            description="Shows what a calibration holds: inputs by layer type, outliers, layers and noise levels seen, what "
            "each input scale policy would clip, and how it differs from another calibration.",
            search_aliases=[
                "calibration report",
                "activation statistics",
                "amax plot",
                "coverage",
                "compare calibrations",
            ],
            inputs=[
                io.Combo.Input(
                    "calibration",
                    options=CALIBRATIONS.names(),
                    tooltip="A calibration made by NVFP4 Calibrate. Press R to refresh the list.",
                ),
                io.Combo.Input(
                    "compare_with",
                    options=[host.NONE, *CALIBRATIONS.names()],
                    default=host.NONE,
                    optional=True,
                    tooltip="Another calibration, for example of the original model: shows how much larger or smaller "
                    "the inputs are than in that one, and whether its scales would serve.",
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect the sampler's output here to read the file after that sampling.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The report as one tall picture."),
                io.String.Output(display_name="text", tooltip="The report with its tables, in Markdown."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, calibration: str, compare_with: str = host.NONE) -> bool | str:
        try:
            for name in _named(calibration, compare_with):
                CALIBRATIONS.path(name)
        except StudioError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, calibration: str, compare_with: str = host.NONE, **_: Any) -> list[Any]:
        return [host.fingerprint(CALIBRATIONS.path(name)) for name in _named(calibration, compare_with)]

    @classmethod
    def execute(cls, calibration: str, compare_with: str = host.NONE, after: object = None) -> io.NodeOutput:
        statistics = load(CALIBRATIONS.existing(calibration))
        report = calibration_report(statistics, calibration)
        page, plots = (
            markdown(f"Calibration {calibration}", report_sections(report)),
            [calibration_plot(statistics, report)],
        )
        comparison = None
        if compare_with != host.NONE:
            comparison = compare(load(CALIBRATIONS.existing(compare_with)), statistics, compare_with, calibration)
            page += "\n" + markdown(f"{calibration} against {compare_with}", comparison_sections(comparison))
            plots.append(comparison_plot(comparison))
        image = torch.from_numpy(np.asarray(stacked(plots), dtype=np.float32) / 255)[None]
        status = f"{calibration}: {coverage_text(statistics, report, comparison)}"
        host.show_text(cls.hidden.unique_id, status)
        shown = {**ui.PreviewImage(image, cls=cls).as_dict(), host.STATUS_OUTPUT: [status]}
        return io.NodeOutput(image, page, ui=shown)


def _named(*names: str) -> list[str]:
    return [name for name in names if name != host.NONE]
