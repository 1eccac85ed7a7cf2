"""A route that tells what this machine's devices compute natively: without it a speed or a picture cannot be judged.

ComfyUI runs an NVFP4 file on any device, but where there are no NVFP4 tensor cores it multiplies the decoded weights
in full precision, and with a PyTorch for CUDA 12 it leaves comfy-kitchen's CUDA kernels alone. Only the server can tell what
happens.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.quant_ops
import torch
from aiohttp import web
from server import PromptServer

from .. import __version__
from .guard import guarded

HARDWARE_ROUTE = "/nvfp4_studio/hardware"


def register() -> None:
    """Add the route to ComfyUI's server; a script that only imports the nodes has none."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(HARDWARE_ROUTE)(guarded(hardware))


async def hardware(request: web.Request) -> web.Response:
    """``{"version": the pack's, "devices": [{"type", "name", "capability", "kernels", "cuda", "nvfp4", "mxfp8", "fp8"}]}``,
    first the one that ComfyUI computes on."""
    first = comfy.model_management.get_torch_device()
    found = getattr(comfy.model_management, "get_all_torch_devices", list)()
    devices = [first, *(device for device in found if device != first)]
    return web.json_response({"version": __version__, "devices": [described(device) for device in devices]})


def own_device() -> dict[str, Any]:
    """The device that ComfyUI computes on."""
    return described(comfy.model_management.get_torch_device())


def described(device: torch.device) -> dict[str, Any]:
    """A device, and which quantized products ComfyUI computes on it natively.

    capability: [major, minor] of NVIDIA's. kernels: whether comfy-kitchen's CUDA kernels are used, cuda: the version that
    PyTorch was built for, both None for any other device.
    """
    nvidia = device.type == "cuda" and torch.version.hip is None
    return {
        "type": device.type,
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "capability": list(torch.cuda.get_device_capability(device)) if nvidia else None,
        "kernels": cuda_kernels() if nvidia else None,
        "cuda": torch.version.cuda if nvidia else None,
        **{kind: nvidia and _supported(kind, device) for kind in ("nvfp4", "mxfp8", "fp8")},
    }


def cuda_kernels() -> bool:
    """Whether comfy-kitchen has its CUDA kernels and ComfyUI left them on, which it does for CUDA 13 and newer only."""
    kitchen = getattr(comfy.quant_ops, "ck", None)
    backend = kitchen.list_backends().get("cuda", {}) if kitchen is not None else {}
    return bool(backend.get("available")) and not backend.get("disabled")


def _supported(kind: str, device: torch.device) -> bool:
    """ComfyUI's own answer, by which it chooses how to multiply."""
    asked = getattr(comfy.model_management, f"supports_{kind}_compute", None)
    return asked is not None and bool(asked(device))
