"""NVFP4Convert: an output node that converts a checkpoint when its button asked for it, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..calibration import DEFAULT_POLICY, POLICIES
from ..converters import DEFAULT_ROUNDING, LAYOUTS, ROUNDINGS, TEXT_ENCODER_CHOICES, Options, Recipe, available_recipes
from . import checkpoints, converting, earlier, host, names, recipes
from .gate import gate, token_of
from .library import CALIBRATIONS
from .recipes import AUTO
from .studio.conversions import board
from .texts import idle_text


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
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, source: str, calibration: str, output_name: str) -> bool | str:
        """Refuse hostile names. A file that is missing is no error before the button asks for it: an ordinary
        Run would fail because of a node that has nothing to do."""
        try:
            names.relative_parts(source, "source")
            names.relative_parts(calibration, "calibration name")
            if output_name.strip():
                names.relative_parts(output_name, "output name")
        except names.InvalidName as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, source: str, output_name: str, **_: Any) -> list[Any]:
        """What the idle text depends on, so that no cached text speaks of a file that changed."""
        return [host.fingerprint(path) for path in checkpoints.output_candidates(_output_name(source, output_name))]

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
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        name = _output_name(source, output_name)
        if not gate.spend(token_of(cls.hidden.prompt, node_id), node_id):
            return _shown(_idle(name, source))
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
        }
        with board.conversion(host.current_prompt() or "", node_id, source, name) as entry:
            job = _job(name, inputs)
            entry.target = checkpoints.output_id(job.target)
            if overwrite or not earlier.is_current(
                job.target, job.source, job.statistics, job.calibration, job.options
            ):
                converting.run(node_id, job, entry)
                host.refresh_lists()
        text = earlier.text_of(job.target) or idle_text(job.target.name, exists=True)
        host.show_text(node_id, text)
        return _shown(text)


def _job(name: str, inputs: dict[str, Any]) -> converting.Job:
    """The files and options behind the widgets' values."""
    host.require_nvfp4_loader()
    path = checkpoints.source_path(inputs["source"])
    calibration = None if inputs["calibration"] == host.NONE else inputs["calibration"]
    all_in_one = inputs["layout"] != "diffusion-model" and converting.is_all_in_one(path)
    return converting.Job(
        source=path,
        target=checkpoints.output_path(name, all_in_one=all_in_one),
        options=Options(
            recipe=_recipe(inputs["recipe"]),
            rounding=inputs["rounding"],
            input_scale=inputs["input_scale"],
            layout=inputs["layout"],
            text_encoder=inputs["text_encoder"],
        ),
        statistics=CALIBRATIONS.existing(calibration) if calibration is not None else None,
        calibration=calibration,
        overwrite=inputs["overwrite"],
        inputs=inputs,
    )


def _recipe(recipe: str) -> str | Recipe | None:
    """What the options take: None for the family's own, a built-in one by its name, one of the user's whole."""
    if recipe == AUTO:
        return None
    found = recipes.read(recipe)
    return found if recipe.startswith(recipes.MINE) else recipe


def _listed(choices: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {text}" for name, text in choices.items())


def _output_name(source: str, output_name: str) -> str:
    if output_name.strip():
        return output_name.strip()
    return names.relative_parts(source, "source")[-1].rpartition(".")[0] + "-nvfp4"


def _idle(name: str, source: str) -> str:
    """The text of an ordinary Run: what there is already, or what the button would do."""
    there = next((path for path in checkpoints.output_candidates(name) if path.is_file()), None)
    if there is None:
        return idle_text(source, exists=False)
    return earlier.text_of(there) or idle_text(there.name, exists=True)


def _shown(text: str) -> io.NodeOutput:
    return io.NodeOutput(ui={host.STATUS_OUTPUT: [text]})
