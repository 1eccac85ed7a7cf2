"""What NVFP4Sensitivity does when it is executed: nothing, or one measurement with its progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..calibration import load
from ..converters import Cancelled, Options, open_source
from ..converters.sensitivity import Sensitivity, beside, choices_of, load_influence, measure_and_save
from ..converters.sensitivity.choices import ALL
from . import checkpoints, host
from .errors import HostError
from .gate import gate, token_of
from .library import CALIBRATIONS, SENSITIVITIES
from .studio.speed import table_for
from .texts import sensitivity_text


@dataclass(frozen=True)
class Asked:
    """What the node's widgets say. ``everything``: every format and rounding; ``kernels`` None: this machine's GPU."""

    source: str
    calibration: str
    name: str
    everything: bool
    input_scale: str
    timesteps: str
    kernels: str | None
    overwrite: bool

    @property
    def called(self) -> str:
        """The name of the result."""
        return self.name.strip() or self.calibration


def executed(node_id: str, prompt: Any, asked: Asked) -> str:
    """Measure if the prompt carries the button's token; the text that the node then shows."""
    if not gate.spend(token_of(prompt, node_id), node_id):
        return f"Press the button to measure {asked.source}. An ordinary Run does not measure."
    path = checkpoints.source_path(asked.source)
    if asked.calibration == host.NONE:
        raise HostError(
            "A sensitivity is measured on inputs that a calibration kept: choose one with detail curvature."
        )
    target = SENSITIVITIES.writable(asked.called)
    if target.exists() and not asked.overwrite:
        raise HostError(
            f"There is a sensitivity {asked.called!r} already: choose another name, or switch overwrite on."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = _measured(node_id, path, target, asked)
    except (Cancelled, host.Interrupted):
        host.show_text(node_id, "Cancelled. What was measured is kept, and the button goes on with the rest.")
        host.raise_if_cancelled()
        raise
    host.refresh_lists()
    text = sensitivity_text(found, asked.called)
    host.show_text(node_id, text)
    return text


def _measured(node_id: str, source: Path, target: Path, asked: Asked) -> Sensitivity:
    collected = CALIBRATIONS.existing(asked.calibration)
    probes = beside(collected)
    with open_source(source) as opened:
        return measure_and_save(
            opened,
            load(collected),
            target,
            choices_of([ALL], [ALL]) if asked.everything else choices_of(),
            options=Options(input_scale=asked.input_scale),
            calibration_name=asked.calibration,
            weighting=asked.timesteps,
            influence=load_influence(probes) if probes.is_file() else None,
            kernels=table_for(asked.kernels, host.gpu_name()),
            device=torch.device(host.device()),
            progress=host.progress_told(node_id),
            cancelled=host.cancelled,
        )
