"""Which stored formats a model's layers have, and whether this device multiplies them as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..hardware import described


@dataclass(frozen=True)
class Layers:
    """How many Linear layers of one format there are, and how many of them ComfyUI decodes here to multiply in full
    precision although the file does not ask for it."""

    total: int
    emulated: int


@dataclass(frozen=True)
class Ran:
    """What ran: the device and the layers of each format (``nvfp4``, ``float8_e4m3fn`` ...); plain layers not counted."""

    device: dict[str, Any]
    formats: Mapping[str, Layers]

    def as_json(self) -> dict[str, Any]:
        return {"device": self.device, "formats": {name: asdict(layers) for name, layers in self.formats.items()}}


def what_runs(patcher: Any) -> Ran:
    """Read from the modules themselves, where ComfyUI's loader wrote its decision."""
    counts: dict[str, list[int]] = {}
    for module in patcher.model.diffusion_model.modules():
        stored = getattr(module, "quant_format", None)
        if stored is not None:
            wanted = getattr(module, "_full_precision_mm_config", False)
            forced = getattr(module, "_full_precision_mm", False) and not wanted
            counts.setdefault(stored, [0, 0])
            counts[stored][0] += 1
            counts[stored][1] += int(forced)
    found = {name: Layers(*count) for name, count in sorted(counts.items())}
    return Ran(described(torch.device(patcher.load_device)), found)


def hardware_note(ran: Ran) -> str:
    """What the figures mean where layers are emulated; empty where all run as stored."""
    emulated = {name: layers.emulated for name, layers in ran.formats.items() if layers.emulated}
    if not emulated:
        return ""
    counts = " and ".join(f"{count} {name}" for name, count in emulated.items())
    return (
        f"{ran.device['name']} does not compute in {' and '.join(emulated)}: ComfyUI decoded the weights of {counts} "
        "layers and multiplied in full precision. The figures show what the stored weights cost; a GPU that computes in these formats "
        "rounds the layers' inputs too, so pictures differ more there, and speed here says nothing of speed there."
    )
