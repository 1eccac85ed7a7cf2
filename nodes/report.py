"""NVFP4CalibrationReport: what a calibration file holds, as text and as a plot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..calibration import load
from ..converters.plots import calibration_plot
from . import host
from .texts import coverage_text


class NVFP4CalibrationReport(io.ComfyNode):
    """Reads one file and draws it; it needs no model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4CalibrationReport",
            display_name="NVFP4 Calibration Report",
            category="NVFP4 Studio",
            description="Shows what a calibration holds: images, steps, layers seen, part of the noise schedule seen, "
            "largest amax, and a plot.",
            search_aliases=["calibration report", "activation statistics", "amax plot", "coverage"],
            inputs=[
                io.Combo.Input(
                    "calibration",
                    options=host.calibration_names(),
                    tooltip="A calibration made by NVFP4 Calibrate. Press R to refresh the list.",
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect the sampler's output here to read the file after that sampling.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="Largest amax of each layer and the schedule seen."),
                io.String.Output(display_name="text", tooltip="The same in words."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, calibration: str) -> bool | str:
        try:
            host.calibration_path(calibration)
        except host.StudioError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, calibration: str, **_: Any) -> list[Any]:
        return [host.fingerprint(host.calibration_path(calibration))]

    @classmethod
    def execute(cls, calibration: str, after: object = None) -> io.NodeOutput:
        statistics = load(host.existing_calibration(calibration))
        text = f"{calibration}: {coverage_text(statistics)}"
        drawing = np.asarray(calibration_plot(statistics).convert("RGB"), dtype=np.float32) / 255
        image = torch.from_numpy(drawing)[None]
        host.show_text(cls.hidden.unique_id, text)
        return io.NodeOutput(image, text, ui={**ui.PreviewImage(image, cls=cls).as_dict(), host.STATUS_OUTPUT: [text]})
