"""NVFP4Sensitivity: an output node that measures how much each layer suffers in each format, when its button asks."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..calibration import DEFAULT_POLICY, POLICIES
from ..calibration.errors import StudioError
from ..converters.kernels import available_tables
from ..converters.sensitivity import DEFAULT_WEIGHTING, WEIGHTINGS
from . import checkpoints, host
from .library import CALIBRATIONS, SENSITIVITIES

AUTO = "auto"
USUAL, ALL = "usual", "all"


class NVFP4Sensitivity(io.ComfyNode):
    """Stands beside the workflow; nothing is connected to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4Sensitivity",
            display_name="NVFP4 Sensitivity",
            category="NVFP4 Studio",
            description="Measures how far each layer's output is off in each format, on inputs that a calibration kept. "
            "Budgets and predicted errors are made from it. Press the button on the node; an ordinary Run does not measure.",
            search_aliases=["layer sensitivity", "output error", "mixed precision", "budget", "nvfp4"],
            inputs=[
                io.Combo.Input(
                    "source", options=checkpoints.sources(), tooltip="The checkpoint to measure. It is only read."
                ),
                io.Combo.Input(
                    "calibration",
                    options=[host.NONE, *CALIBRATIONS.names()],
                    default=host.NONE,
                    tooltip="A calibration of this model with detail curvature, which keeps some inputs of each layer.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name of the result, in models/nvfp4_sensitivity. Empty: the calibration's name.",
                ),
                io.Combo.Input(
                    "formats",
                    options=[USUAL, ALL],
                    default=USUAL,
                    tooltip="usual: NVFP4, MXFP8, FP8 and INT8, NVFP4 with the best and with nearest rounding. all: every "
                    "format and every rounding, which takes several times as long.",
                ),
                io.Combo.Input(
                    "input_scale",
                    options=list(POLICIES),
                    default=DEFAULT_POLICY,
                    tooltip="How the scale of a layer's input follows from the statistics, as in NVFP4 Convert.",
                ),
                io.Combo.Input(
                    "timesteps",
                    options=list(WEIGHTINGS),
                    default=DEFAULT_WEIGHTING,
                    tooltip=" ".join(f"{name}: {text}." for name, text in WEIGHTINGS.items()),
                ),
                io.Combo.Input(
                    "kernels",
                    options=[AUTO, *available_tables()],
                    default=AUTO,
                    tooltip="The GPU that times are predicted for. auto: this machine's, or the closest that is known.",
                ),
                io.Boolean.Input("overwrite", default=False, tooltip="Replace a result of this name."),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, source: str, calibration: str, name: str) -> bool | str:
        """Refuse hostile names; a file that is missing is no error before the button asks for it."""
        try:
            checkpoints.check_id(source)
            CALIBRATIONS.path(calibration)
            SENSITIVITIES.path(name.strip() or calibration)
        except StudioError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, calibration: str, name: str, **_: Any) -> list[Any]:
        """What the idle text depends on."""
        return [host.fingerprint(SENSITIVITIES.path(name.strip() or calibration))]

    @classmethod
    def execute(cls, formats: str, kernels: str, **inputs: Any) -> io.NodeOutput:
        from . import measuring  # With all that a measurement needs: not before the first run.

        asked = measuring.Asked(everything=formats == ALL, kernels=None if kernels == AUTO else kernels, **inputs)
        text = measuring.executed(cls.hidden.unique_id, cls.hidden.prompt, asked)
        return io.NodeOutput(ui={host.STATUS_OUTPUT: [text]})
