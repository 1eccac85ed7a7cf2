"""The only access to ComfyUI: paths, lists of files, progress, cancel, text on a node, capabilities."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.quant_ops
import comfy.utils
import folder_paths
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..calibration.errors import StudioError
from ..converters.shards import is_later_shard
from . import names

log = logging.getLogger("nvfp4_studio")

CALIBRATIONS = "nvfp4_calibration"
STATUS_EVENT = "nvfp4_studio.status"
STATUS_OUTPUT = "nvfp4_status"
REFRESH_EVENT = "nvfp4_studio.refresh"
SOURCE_FOLDERS = ("checkpoints", "diffusion_models")
SOURCE_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
NONE = "none"


Interrupted = comfy.model_management.InterruptProcessingException
"""What a cancel raises. A BaseException: ``except Exception`` does not see it."""


class HostError(StudioError):
    """ComfyUI lacks something that a node needs, or a file that a widget names is not there."""


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


# Calibrations


def register_calibration_folder() -> None:
    """Make ``models/nvfp4_calibration`` known; a folder from extra_model_paths.yaml stays in front."""
    folder_paths.add_model_folder_path(CALIBRATIONS, os.path.join(folder_paths.models_dir, CALIBRATIONS))
    # Without an extension set every file counts, a report or a readme beside the statistics too.
    folder_paths.folder_names_and_paths[CALIBRATIONS][1].add(names.SUFFIX)


def calibration_names() -> list[str]:
    """Names without suffix, as the calibrate node took them."""
    return [name[: -len(names.SUFFIX)] for name in folder_paths.get_filename_list(CALIBRATIONS)]


def calibration_path(name: str) -> Path:
    """Where the calibration of this name lies or will lie (the first folder of the key)."""
    folders = folder_paths.get_folder_paths(CALIBRATIONS)
    paths = [names.file_below(folder, name, "calibration name") for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def existing_calibration(name: str) -> Path:
    """The path of a calibration that must be there."""
    path = calibration_path(name)
    if not path.is_file():
        known = ", ".join(calibration_names()) or "none yet"
        raise HostError(
            f"There is no calibration {name!r} (there are: {known}): sample once through the NVFP4 Calibrate node."
        )
    return path


def exchangeable_calibration(name: str) -> Path:
    """The path of an existing calibration that a route may hand out or delete: no link out of the folders."""
    path = existing_calibration(name)
    if not _inside(path):
        raise HostError(f"The calibration {name!r} is a link out of its folder: put the file itself there.")
    return path


def stored_calibrations() -> list[tuple[str, os.stat_result]]:
    """Name and stat of each calibration that a route may show; one that vanishes meanwhile is left out."""
    found = []
    for name in calibration_names():
        try:
            path = calibration_path(name)
            if _inside(path):
                found.append((name, path.stat()))
        except (StudioError, OSError):
            continue
    return found


def _inside(path: Path) -> bool:
    """Whether the file, with all links followed, lies in one of the calibration folders."""
    target = path.resolve()
    return any(target.is_relative_to(Path(folder).resolve()) for folder in folder_paths.get_folder_paths(CALIBRATIONS))


def fingerprint(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in nanoseconds; never a hash, the file may have 30 GB."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


# Checkpoints


def sources() -> list[str]:
    """Convertible files as ``<folder>/<name>``, because both folders may hold the same name.

    A model in numbered shards is listed once, by the first of them.
    """
    return [
        f"{folder}/{name}"
        for folder in SOURCE_FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.lower().endswith(SOURCE_SUFFIXES) and not is_later_shard(Path(name))
    ]


def source_path(source: str) -> Path:
    """The file behind a name of :func:`sources`; anything that is not in ComfyUI's own list is refused."""
    folder, _, name = source.partition("/")
    names.relative_parts(name, "source")
    if folder not in SOURCE_FOLDERS or name not in folder_paths.get_filename_list(folder):
        raise HostError(f"There is no checkpoint {source!r}: choose one from the list, after pressing R to refresh it.")
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def output_path(name: str, *, all_in_one: bool) -> Path:
    """``<output>/checkpoints`` or ``<output>/diffusion_models``: ComfyUI searches both for models."""
    key = "checkpoints" if all_in_one else "diffusion_models"
    folder = os.path.join(folder_paths.get_output_directory(), key)
    if folder not in folder_paths.get_folder_paths(key):
        raise HostError(f"ComfyUI does not look for models in {folder}: start it through its own main.py.")
    return names.file_below(folder, name, "output name")


def output_candidates(name: str) -> list[Path]:
    """Both places where a conversion of this name may lie."""
    return [output_path(name, all_in_one=all_in_one) for all_in_one in (False, True)]


# Running


def device() -> str:
    """``cuda`` where ComfyUI computes on it, else ``cpu``; so ``--cpu`` holds for conversions too."""
    return "cuda" if comfy.model_management.get_torch_device().type == "cuda" else "cpu"


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


def show_text(node_id: str | None, text: str) -> None:
    """Put a line of text on the node in every open browser, at once; ``web/nvfp4_studio.js`` draws it."""
    server: Any = getattr(PromptServer, "instance", None)
    if node_id is not None and server is not None:
        server.send_sync(STATUS_EVENT, {"node": node_id, "text": text})


def refresh_lists() -> None:
    """Tell every open browser that there is a new file, so that its lists show it without pressing R."""
    server: Any = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(REFRESH_EVENT, {})
