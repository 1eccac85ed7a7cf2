"""NVFP4Sensitivity: an output node that measures how much each layer suffers in each format, when its button asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..calibration import DEFAULT_POLICY, POLICIES, load
from ..calibration.errors import StudioError
from ..converters import Cancelled, Options, open_source
from ..converters.kernels import available_tables
from ..converters.sensitivity import (
    DEFAULT_WEIGHTING,
    WEIGHTINGS,
    Sensitivity,
    beside,
    choices_of,
    load_influence,
    measure_and_save,
)
from . import checkpoints, host
from .errors import HostError
from .gate import gate, token_of
from .library import CALIBRATIONS, SENSITIVITIES
from .studio.speed import table_for
from .texts import sensitivity_text

AUTO = "auto"
USUAL, ALL = "usual", "all"
STATUS_SECONDS = 0.3


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
    def execute(
        cls,
        source: str,
        calibration: str,
        name: str,
        formats: str,
        input_scale: str,
        timesteps: str,
        kernels: str,
        overwrite: bool,
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        called = name.strip() or calibration
        if not gate.spend(token_of(cls.hidden.prompt, node_id), node_id):
            return _shown(f"Press the button to measure {source}. An ordinary Run does not measure.")
        path = checkpoints.source_path(source)
        if calibration == host.NONE:
            raise HostError(
                "A sensitivity is measured on inputs that a calibration kept: choose one with detail curvature."
            )
        collected = CALIBRATIONS.existing(calibration)
        statistics, probes = load(collected), beside(collected)
        target = SENSITIVITIES.writable(called)
        if target.exists() and not overwrite:
            raise HostError(f"There is a sensitivity {called!r} already: choose another name, or switch overwrite on.")
        target.parent.mkdir(parents=True, exist_ok=True)
        everything = formats == ALL
        with open_source(path) as opened:
            found = _measured(
                node_id,
                opened,
                statistics,
                target,
                choices_of([ALL], [ALL]) if everything else choices_of(),
                options=Options(input_scale=input_scale),
                calibration_name=calibration,
                weighting=timesteps,
                influence=load_influence(probes) if probes.is_file() else None,
                kernels=table_for(None if kernels == AUTO else kernels, host.gpu_name()),
                device=torch.device(host.device()),
            )
        host.refresh_lists()
        text = sensitivity_text(found, called)
        host.show_text(node_id, text)
        return _shown(text)


def _measured(node_id: str, *arguments: Any, **settings: Any) -> Sensitivity:
    """The measurement, with progress on the node; ComfyUI's own interrupt is raised when it was cancelled."""
    try:
        return measure_and_save(*arguments, **settings, progress=_progress(node_id), cancelled=host.cancelled)
    except (Cancelled, host.Interrupted):
        host.show_text(node_id, "Cancelled. What was measured is kept, and the button goes on with the rest.")
        host.raise_if_cancelled()
        raise


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
