"""NVFP4CalibrationReport: what a calibration file holds, as text and as a plot, alone or against another."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..calibration.errors import StudioError
from . import host
from .library import CALIBRATIONS


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
        from .reporting import reported  # With all that a report needs: not before the first run.

        image, page, status = reported(calibration, None if compare_with == host.NONE else compare_with)
        host.show_text(cls.hidden.unique_id, status)
        shown = {**ui.PreviewImage(image, cls=cls).as_dict(), host.STATUS_OUTPUT: [status]}
        return io.NodeOutput(image, page, ui=shown)


def _named(*names: str) -> list[str]:
    return [name for name in names if name != host.NONE]
