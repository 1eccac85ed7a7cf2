"""NVFP4Calibrate: MODEL in, MODEL out, and whatever is sampled with it is measured."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..calibration import DEFAULT_DETAIL, DETAIL_HELP, DETAILS
from ..calibration.errors import StudioError
from . import host
from .library import CALIBRATIONS

ACCUMULATE = "accumulate"
RESTART = "restart"


class NVFP4Calibrate(io.ComfyNode):
    """Goes between loader and sampler; the image is bit for bit the one without it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4Calibrate",
            display_name="NVFP4 Calibrate",
            category="NVFP4 Studio",
            description="Measures the inputs of every Linear layer while you generate images as usual, and keeps the "
            "statistics in one file. Images do not change. The file is what NVFP4 Convert derives input scales from.",
            search_aliases=["quantize calibration", "activation statistics", "input scale", "amax", "fp4"],
            inputs=[
                io.Model.Input("model", tooltip="The original model, in whatever format its weights are."),
                io.String.Input(
                    "name",
                    default="my-model",
                    tooltip="Name of the calibration. It is kept in models/nvfp4_calibration/<name>.safetensors; "
                    "use one name per model.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[ACCUMULATE, RESTART],
                    default=ACCUMULATE,
                    tooltip="accumulate: add to what the file holds, over samplings, prompts and restarts of ComfyUI. "
                    "restart: the first sampling of each prompt starts the file anew.",
                ),
                io.Combo.Input(
                    "detail",
                    options=list(DETAILS),
                    default=DEFAULT_DETAIL,
                    tooltip=" ".join(f"{name}: {DETAIL_HELP[name]}" for name in DETAILS),
                    optional=True,
                ),
                io.Boolean.Input(
                    "influence",
                    default=False,
                    tooltip="Also measure how much of each layer's error reaches the picture, for NVFP4 Sensitivity and "
                    "budgets. Each step is computed twice, the second time with one layer disturbed.",
                    optional=True,
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model; sampling with it is measured.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str) -> bool | str:
        try:
            CALIBRATIONS.path(name)
        except StudioError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Any, name: str, mode: str, detail: str = DEFAULT_DETAIL, influence: bool = False
    ) -> io.NodeOutput:
        # What only a run needs is imported by the first one.
        from ..calibration import details_cost, load
        from .patching import CalibrationPatch, add_calibration
        from .texts import before_sampling, cost_text

        host.require_sampling_wrappers()
        path = CALIBRATIONS.path(name)
        node_id = cls.hidden.unique_id

        def show(text: str) -> None:
            host.show_text(node_id, text)

        restart = mode == RESTART
        stored = load(path) if path.is_file() and not restart else None
        cost = details_cost(model.model.diffusion_model, detail)
        show(f"{before_sampling(stored, path.stem, restart=restart)}\n{cost_text(detail, cost)}")

        def tell(counts: dict[str, Any]) -> None:
            host.send(host.CALIBRATION_EVENT, {"name": CALIBRATIONS.name_of(path), "node": node_id, **counts})

        patch = CalibrationPatch(path, restart=restart, show=show, detail=detail, influence=influence, tell=tell)
        return io.NodeOutput(add_calibration(model, patch))
