"""What the server computes on, and what the figures therefore mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..text import one_line

WITH_NVFP4 = re.compile(
    r"RTX 50[5-9]0|RTX PRO \d+ .*Blackwell|\bG?B[12]00\b|\bG?B300\b|\bGB10\b|Jetson.*Thor", re.IGNORECASE
)
WITHOUT = re.compile(
    r"GTX|TITAN|Quadro|Tesla|RTX [234]0\d0|RTX A?\d000|Radeon|Instinct"
    r"|\b(A100|A10G?|A16|A30|A40|A800|G?H100|G?H200|H20|H800|L4|L40S?|T4|V100|P100)\b",
    re.IGNORECASE,
)


def described_hardware(stats: Mapping[str, Any], told: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"device", "type", "capability", "nvfp4", "fp8", "told_by", "vram_bytes", "ram_bytes", "meaning"} of the first device.

    told: what the pack on the server says (`nodes/hardware.py`), which is ComfyUI's own answer. Without it the
    device's name must do; nvfp4 is None where that tells nothing.
    """
    device = next((entry for entry in stats.get("devices", ()) if isinstance(entry, dict)), {})
    system = system_of(stats)
    kind = one_line(str(device.get("type", "unknown")), 20)
    name = "CPU" if kind == "cpu" else one_line(str(device.get("name", "unknown")), 120)
    first = next((entry for entry in (told or {}).get("devices", ()) if isinstance(entry, dict)), None)
    nvfp4: bool | None
    fp8: bool | None
    if first is not None:
        nvfp4, fp8 = bool(first.get("nvfp4")), bool(first.get("fp8"))
        capability = _capability(first.get("capability"))
        name = (
            one_line(str(first.get("name", name)), 120) if kind == "cuda" else name
        )  # of others it tells the type alone
    else:
        nvfp4, fp8, capability = _by_name(kind, name), None, None
    return {
        "device": name,
        "type": kind,
        "capability": capability,
        "nvfp4": nvfp4,
        "fp8": fp8,
        "told_by": "nvfp4-studio on the server" if first is not None else "the device's name",
        "vram_bytes": _whole(device.get("vram_total")) if kind != "cpu" else None,
        "ram_bytes": _whole(system.get("ram_total")),
        "meaning": meaning(name, nvfp4, without_kernels=_without_kernels(first or {})),
    }


def meaning(device: str, nvfp4: bool | None, *, without_kernels: str = "") -> str:
    """What quality and speed measured on this device say; ``without_kernels``: why ComfyUI computes there without
    comfy-kitchen's CUDA kernels, empty where it does not."""
    if nvfp4 and without_kernels:
        return (
            f"The {device} has NVFP4 tensor cores, but ComfyUI computed without comfy-kitchen's CUDA kernels: {without_kernels}. "
            "Quality is that of this file on such a GPU, the times are longer than they need be."
        )
    if nvfp4:
        return (
            f"The {device} has NVFP4 tensor cores: weights and activations were NVFP4 in the multiplications, and times and "
            "quality are those of this file on such a GPU."
        )
    if nvfp4 is None:
        return (
            f"Whether the {device} has NVFP4 tensor cores is unknown (nvfp4-studio on the server would tell). Without them "
            "quality is that of the weights alone, and the times say nothing about a GPU that has them."
        )
    return (
        f"The {device} has no NVFP4 tensor cores: ComfyUI multiplied in full precision with the decoded 4-bit weights. "
        "Quality is that of the weights alone, without the rounding of activations that NVFP4 hardware adds; the times "
        "say nothing about a GPU with NVFP4 tensor cores."
    )


def _without_kernels(told: Mapping[str, Any]) -> str:
    """Why kernels are missing, as far as the server tells: ComfyUI 0.33 switches them off below CUDA 13 (``comfy/quant_ops.py``)."""
    if told.get("kernels") is not False:
        return ""
    cuda = re.match(r"\d{1,3}\b", str(told.get("cuda")))
    if cuda and int(cuda[0]) >= 13:
        return "ComfyUI's log tells why"
    return "they need a PyTorch for CUDA 13 (cu130) or newer"


def system_of(stats: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of `/system_stats` about machine and versions."""
    system = stats.get("system")
    return system if isinstance(system, dict) else {}


def _capability(found: Any) -> list[int] | None:
    """[major, minor], None for anything else."""
    known = isinstance(found, list) and len(found) == 2 and None not in map(_whole, found)
    return found if known else None


def _whole(found: object) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 60 else None


def _by_name(kind: str, name: str) -> bool | None:
    if kind != "cuda":
        return False
    if WITH_NVFP4.search(name):
        return True
    return False if WITHOUT.search(name) else None
