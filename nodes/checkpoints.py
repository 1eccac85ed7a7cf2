"""Checkpoints by id: which file is behind one, and where a converted one goes.

An id is ``<folder key>/<name as ComfyUI lists it>``, because both folders may hold the same name.
"""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..converters.containers.shards import is_later_shard
from . import names
from .errors import HostError

FOLDERS = ("checkpoints", "diffusion_models")
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")


def sources() -> list[str]:
    """Ids of convertible files. A model in numbered shards is listed once, by the first of them."""
    return [
        f"{folder}/{name}"
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.lower().endswith(SUFFIXES) and not is_later_shard(Path(name))
    ]


def check_id(source: str) -> None:
    """Raises InvalidName for an id that could lead out of its folder, whether there is such a file or not."""
    names.relative_parts(source, "source")


def source_path(source: str) -> Path:
    """The file behind an id of :func:`sources`; anything that is not in ComfyUI's own list is refused."""
    folder, _, name = source.partition("/")
    names.relative_parts(name, "source")
    if folder not in FOLDERS or name not in folder_paths.get_filename_list(folder):
        raise HostError(f"There is no checkpoint {source!r}: choose one from the list, after pressing R to refresh it.")
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def inner_source_path(source: str) -> Path:
    """:func:`source_path` for what a web page may ask about: no link out of ComfyUI's own folders."""
    path = source_path(source)
    if not is_inside(path):
        raise HostError(
            f"{source} is a link out of ComfyUI's model folders: add the folder that it leads to in "
            "extra_model_paths.yaml, or put the file itself there."
        )
    return path


def is_inside(path: Path) -> bool:
    """Whether the file, with all links followed, lies in a folder where ComfyUI looks for models."""
    target = path.resolve()
    searched = {folder for folders, _ in folder_paths.folder_names_and_paths.values() for folder in folders}
    return any(target.is_relative_to(Path(folder).resolve()) for folder in {folder_paths.models_dir, *searched})


def output_folder(key: str) -> Path:
    """``<output>/checkpoints`` or ``<output>/diffusion_models``: ComfyUI searches both for models."""
    folder = os.path.join(folder_paths.get_output_directory(), key)
    if folder not in folder_paths.get_folder_paths(key):
        raise HostError(f"ComfyUI does not look for models in {folder}: start it through its own main.py.")
    return Path(folder)


def output_path(name: str, *, all_in_one: bool) -> Path:
    """Where a conversion of this name goes."""
    return names.file_below(output_folder("checkpoints" if all_in_one else "diffusion_models"), name, "output name")


def output_candidates(name: str) -> list[Path]:
    """Both places where a conversion of this name may lie."""
    return [output_path(name, all_in_one=all_in_one) for all_in_one in (False, True)]


def output_id(path: Path) -> str:
    """The id of a file in one of the output folders."""
    key = next(key for key in FOLDERS if path.is_relative_to(output_folder(key)))
    return f"{key}/{path.relative_to(output_folder(key)).as_posix()}"
