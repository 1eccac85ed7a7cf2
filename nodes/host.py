"""ComfyUI while it runs: capabilities, progress, cancel, events, text on a node. Files are in ``library`` and ``checkpoints``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.quant_ops
import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer

from .errors import HostError

log = logging.getLogger("nvfp4_studio")

STATUS_EVENT = "nvfp4_studio.status"
STATUS_OUTPUT = "nvfp4_status"
REFRESH_EVENT = "nvfp4_studio.refresh"
CONVERSION_EVENT = "nvfp4_studio.conversion"
CALIBRATION_EVENT = "nvfp4_studio.calibration"
NONE = "none"
TEXT_SECONDS = 0.3
"""Between two texts of a node's progress."""


Interrupted = comfy.model_management.InterruptProcessingException
"""What a cancel raises. A BaseException: ``except Exception`` does not see it."""


def version() -> str:
    """ComfyUI's version, or ``unknown`` where it does not tell."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return str(__version__)


def require_sampling_wrappers() -> None:
    """Calibration needs the two wrapper points around sampling and around each model call."""
    wrappers = comfy.patcher_extension.WrappersMP
    if not (hasattr(wrappers, "OUTER_SAMPLE") and hasattr(wrappers, "APPLY_MODEL")):
        raise HostError(f"ComfyUI {version()} has no sampling wrappers to calibrate with: update it to 0.33 or newer.")


def require_nvfp4_loader() -> None:
    """Conversion makes sense only where the standard loaders know the format."""
    if "nvfp4" not in getattr(comfy.quant_ops, "QUANT_ALGOS", {}):
        raise HostError(f"ComfyUI {version()} cannot load NVFP4 files: update it to 0.33 or newer, then convert.")


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in nanoseconds; never a hash, the file may have 30 GB."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


# Running


def device() -> str:
    """``cuda`` where ComfyUI computes on it, else ``cpu``; so ``--cpu`` holds for conversions too."""
    return "cuda" if comfy.model_management.get_torch_device().type == "cuda" else "cpu"


def gpu_name() -> str:
    """How the GPU that ComfyUI computes on is called, "" where it has none."""
    chosen = comfy.model_management.get_torch_device()
    return str(torch.cuda.get_device_name(chosen)) if chosen.type == "cuda" else ""


def free_memory(wanted: int) -> None:
    """Let ComfyUI move loaded models out until about ``wanted`` bytes of the device are free."""
    comfy.model_management.free_memory(wanted, comfy.model_management.get_torch_device())


def cancelled() -> bool:
    """Whether the user pressed cancel; :func:`raise_if_cancelled` then takes the request."""
    return bool(comfy.model_management.processing_interrupted())


def raise_if_cancelled() -> None:
    """Raise ComfyUI's own interrupt (a BaseException) if cancel was pressed."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def current_prompt() -> str | None:
    """The id of the prompt that is being executed in this thread, None outside of a queue."""
    context = get_executing_context()
    return context.prompt_id if context is not None else None


def progress_bar(node_id: str) -> Callable[[int, int], None]:
    """A function (done, total) that moves the node's bar. Each call is a cancel point."""
    bar = comfy.utils.ProgressBar(100, node_id=node_id)

    def update(done: int, total: int) -> None:
        raise_if_cancelled()
        bar.update_absolute(done, max(total, 1))

    return update


def progress_told(node_id: str) -> Callable[[int, int, str], None]:
    """The same with a label, which stands on the node with the percentage."""
    bar = progress_bar(node_id)
    next_text = 0.0

    def update(done: int, total: int, label: str) -> None:
        nonlocal next_text
        bar(done, total)
        now = time.monotonic()
        if now >= next_text:
            next_text = now + TEXT_SECONDS
            show_text(node_id, f"{done / max(total, 1):.0%} {label}")

    return update


def queued_prompts() -> list[tuple[Any, ...]]:
    """ComfyUI's queue in the order in which it runs, what runs now first: (number, prompt id, prompt, extra, outputs, …)."""
    server: Any = getattr(PromptServer, "instance", None)
    if server is None:
        return []
    running, waiting = server.prompt_queue.get_current_queue_volatile()
    return [*running, *sorted(waiting, key=lambda item: item[0])]


def send(event: str, data: dict[str, Any]) -> None:
    """Send an event to every open browser."""
    server: Any = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(event, data)


def show_text(node_id: str | None, text: str) -> None:
    """Put a line of text on the node in every open browser, at once; ``web/nvfp4_studio.js`` draws it."""
    if node_id is not None:
        send(STATUS_EVENT, {"node": node_id, "prompt_id": current_prompt(), "text": text})


def refresh_lists() -> None:
    """Tell every open browser that there is a new file, so that its lists show it without pressing R."""
    send(REFRESH_EVENT, {})
