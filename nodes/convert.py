"""NVFP4Convert: an output node that converts a checkpoint when its button asked for it, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..calibration import DEFAULT_POLICY, POLICIES
from ..converters import (
    DEFAULT_ROUNDING,
    LAYOUTS,
    PRE_QUANT_CHOICES,
    ROUNDINGS,
    TEXT_ENCODER_CHOICES,
    available_recipes,
)
from . import checkpoints, host, names, recipes
from .library import CALIBRATIONS
from .recipes import AUTO


class NVFP4Convert(io.ComfyNode):
    """Stands beside the workflow; nothing is connected to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NVFP4Convert",
            display_name="NVFP4 Convert",
            category="NVFP4 Studio",
            description="Converts a checkpoint to mixed NVFP4/FP8 that the standard loaders open. Press the button "
            "on the node; an ordinary Run does not convert.",
            search_aliases=["quantize checkpoint", "nvfp4", "fp4", "fp8 to fp4", "convert model"],
            inputs=[
                io.Combo.Input(
                    "source",
                    options=checkpoints.sources(),
                    tooltip="The checkpoint to convert: BF16, FP16, FP32 or FP8, a diffusion model or all-in-one. "
                    "It is only read.",
                ),
                io.Combo.Input(
                    "calibration",
                    options=[host.NONE, *CALIBRATIONS.names()],
                    default=host.NONE,
                    tooltip="Statistics from NVFP4 Calibrate. Without them FP8 layers compute in full precision and "
                    "NVFP4 layers measure each call.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=[AUTO, *recipes.ids()],
                    default=AUTO,
                    tooltip="Which layers become NVFP4. auto: the recipe of the model's family. my/NAME: a recipe of "
                    "your own in models/nvfp4_recipes. "
                    + _listed({name: recipe.title for name, recipe in available_recipes().items()}),
                ),
                io.Combo.Input(
                    "input_scale",
                    options=list(POLICIES),
                    default=DEFAULT_POLICY,
                    tooltip="How the scale of a layer's input follows from the statistics. " + _listed(POLICIES),
                ),
                io.Combo.Input(
                    "rounding",
                    options=list(ROUNDINGS),
                    default=DEFAULT_ROUNDING,
                    tooltip="How weights are rounded. " + _listed(ROUNDINGS),
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    tooltip="source: as the source. checkpoint: keep an all-in-one file with text encoder and VAE. "
                    "diffusion-model: the diffusion model alone, for Load Diffusion Model.",
                ),
                io.String.Input(
                    "output_name",
                    default="",
                    tooltip="Name of the new file in output/diffusion_models or output/checkpoints. "
                    "Empty: the source's name with -nvfp4.",
                ),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Replace a file of this name, once the new one is verified."
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=list(TEXT_ENCODER_CHOICES),
                    default="keep",
                    optional=True,
                    tooltip="What becomes of text encoders inside an all-in-one checkpoint. ComfyUI computes them in "
                    "full precision, so this saves memory, not time. " + _listed(TEXT_ENCODER_CHOICES),
                ),
                io.Combo.Input(
                    "pre_quant",
                    options=list(PRE_QUANT_CHOICES),
                    default="off",
                    optional=True,
                    tooltip="A pre_quant_scale evens out the channels of a layer's input before it is quantized. "
                    + _listed(PRE_QUANT_CHOICES),
                ),
                io.Boolean.Input(
                    "gain",
                    default=False,
                    optional=True,
                    tooltip="Measures a constant gain for each NVFP4 layer on inputs kept while calibrating, which gives "
                    "outputs their length back. Needs detail curvature.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, source: str | None, calibration: str | None, recipe: str | None, output_name: str | None
    ) -> bool | str:
        """Refuse hostile names. A file that is missing is no error before the button asks for it: an ordinary
        Run would fail because of a node that has nothing to do. None is what another node will hand over; it is
        checked when this one is executed."""
        given = {"source": source, "calibration name": calibration, "recipe name": recipe}
        given["output name"] = (output_name or "").strip() or None
        try:
            for what, name in given.items():
                if name is not None:
                    names.relative_parts(name, what)
        except names.InvalidName as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, source: str, output_name: str, **_: Any) -> list[Any]:
        """What the idle text depends on, so that no cached text speaks of a file that changed."""
        return [
            host.fingerprint(path) for path in checkpoints.output_candidates(names.converted_name(source, output_name))
        ]

    @classmethod
    def execute(
        cls,
        source: str,
        calibration: str,
        recipe: str,
        input_scale: str,
        rounding: str,
        layout: str,
        output_name: str,
        overwrite: bool,
        text_encoder: str = "keep",
        pre_quant: str = "off",
        gain: bool = False,
    ) -> io.NodeOutput:
        from . import converting  # With all that a conversion needs: not before the first run.

        inputs = {
            "source": source,
            "calibration": calibration,
            "recipe": recipe,
            "input_scale": input_scale,
            "rounding": rounding,
            "layout": layout,
            "output_name": output_name,
            "overwrite": overwrite,
            "text_encoder": text_encoder,
            "pre_quant": pre_quant,
            "gain": gain,
        }
        text = converting.executed(cls.hidden.unique_id, cls.hidden.prompt, inputs)
        return io.NodeOutput(ui={host.STATUS_OUTPUT: [text]})


def _listed(choices: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {text}" for name, text in choices.items())
