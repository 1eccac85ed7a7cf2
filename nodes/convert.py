"""NVFP4Convert: an output node that converts a checkpoint when its button asked for it, and only then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..calibration import DEFAULT_POLICY, POLICIES, load
from ..converters import (
    DEFAULT_ROUNDING,
    LAYOUTS,
    ROUNDINGS,
    Cancelled,
    Options,
    available_recipes,
    convert,
    detect_family,
    open_source,
    report_stem,
)
from ..converters.families import component
from . import checkpoints, earlier, host, names
from .errors import HostError
from .gate import TOKEN_INPUT, gate
from .library import CALIBRATIONS
from .texts import idle_text

AUTO = "auto"
STATUS_SECONDS = 0.3
DEVICE_BYTES = 2 << 30
"""Room that a conversion asks ComfyUI for on the GPU: the largest tensor of today's models in float32, and
the temporaries of its rounding."""


class NVFP4Convert(io.ComfyNode):
    """Stands beside the workflow; nothing is connected to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        recipes = available_recipes()
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
                    options=[AUTO, *recipes],
                    default=AUTO,
                    tooltip="Which layers become NVFP4. auto: the recipe of the model's family. "
                    + _listed({name: recipe.title for name, recipe in recipes.items()}),
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
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        name = _output_name(source, output_name)
        if not gate.spend(_token(cls.hidden.prompt, node_id), node_id):
            return _shown(_idle(name, source))
        host.require_nvfp4_loader()
        path = checkpoints.source_path(source)
        if recipe != AUTO and recipe not in available_recipes():
            raise HostError(f"There is no recipe {recipe!r}: choose one of the list.")
        statistics = None if calibration == host.NONE else CALIBRATIONS.existing(calibration)
        target = checkpoints.output_path(name, all_in_one=layout != "diffusion-model" and is_all_in_one(path))
        options = Options(None if recipe == AUTO else recipe, rounding, input_scale, layout)
        if overwrite or not earlier.is_current(target, path, statistics, options):
            _convert(node_id, path, target, options, statistics, overwrite=overwrite)
            host.refresh_lists()
        text = earlier.text_of(target) or idle_text(target.name, exists=True)
        host.show_text(node_id, text)
        return _shown(text)


def _convert(
    node_id: str, source: Path, target: Path, options: Options, statistics: Path | None, *, overwrite: bool
) -> None:
    """Convert and write the report beside the file; ComfyUI's own interrupt is raised when it was cancelled."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if host.device() == "cuda":
        host.free_memory(DEVICE_BYTES)
    try:
        report = convert(
            source,
            target,
            options,
            calibration=load(statistics) if statistics else None,
            calibration_name=statistics.stem if statistics else None,
            device=host.device(),
            overwrite=overwrite,
            progress=_progress(node_id),
            cancelled=host.cancelled,
        )
    except (Cancelled, host.Interrupted):
        host.show_text(node_id, f"{target.name}: cancelled, nothing was written.")
        host.raise_if_cancelled()
        raise
    report.write(report_stem(target))


def is_all_in_one(path: Path) -> bool:
    """Whether a file holds a text encoder, a VAE or anything else beside the diffusion model."""
    with open_source(path) as opened:
        prefix = detect_family(opened.tensors).prefix
        return any(component(name, prefix) != "diffusion_model" for name in opened.tensors)


def _listed(choices: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {text}" for name, text in choices.items())


def _token(prompt: Any, node_id: str) -> object:
    node = prompt.get(node_id) if isinstance(prompt, dict) else None
    return node.get("inputs", {}).get(TOKEN_INPUT) if isinstance(node, dict) else None


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


def _progress(node_id: str) -> Callable[[int, int, str], None]:
    bar = host.progress_bar(node_id)
    next_text = 0.0

    def update(done: int, total: int, label: str) -> None:
        nonlocal next_text
        bar(done, total)
        now = time.monotonic()
        if now >= next_text:
            next_text = now + STATUS_SECONDS
            host.show_text(node_id, f"{done / max(total, 1):.0%} {label}")

    return update


def _shown(text: str) -> io.NodeOutput:
    return io.NodeOutput(ui={host.STATUS_OUTPUT: [text]})
