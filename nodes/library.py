"""Files of one kind in a folder key of ComfyUI: calibrations, recipes of the user, sensitivities.

A name is what people typed, without suffix; ``extra_model_paths.yaml`` may add folders to every key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..calibration.errors import StudioError
from . import names
from .errors import HostError


@dataclass(frozen=True)
class Library:
    """One kind of file. ``what`` names it in errors, ``advice`` says how to get the first one."""

    key: str
    suffix: str
    what: str
    advice: str

    def register(self) -> None:
        """Make ``models/<key>`` known; a folder from extra_model_paths.yaml stays in front."""
        folder_paths.add_model_folder_path(self.key, os.path.join(folder_paths.models_dir, self.key))
        # Without an extension set every file counts, a report or a readme beside the others too.
        folder_paths.folder_names_and_paths[self.key][1].add(self.suffix)

    def names(self) -> list[str]:
        """Names without suffix, in alphabetical order; those in folders that begin with a dot are left out."""
        return [
            name[: -len(self.suffix)]
            for name in folder_paths.get_filename_list(self.key)
            if not any(folder.startswith(".") for folder in Path(name).parts[:-1])
        ]

    def name_of(self, path: Path) -> str:
        """The name of a file in one of the folders, as :meth:`names` has it."""
        folder = next(folder for folder in folder_paths.get_folder_paths(self.key) if path.is_relative_to(folder))
        return str(path.relative_to(folder))[: -len(self.suffix)]

    def path(self, name: str) -> Path:
        """Where the file of this name lies or will lie (the first folder of the key)."""
        folders = folder_paths.get_folder_paths(self.key)
        paths = [names.file_below(folder, name, f"{self.what} name", self.suffix) for folder in folders]
        return next((path for path in paths if path.is_file()), paths[0])

    def existing(self, name: str) -> Path:
        """The path of a file that must be there."""
        path = self.path(name)
        if not path.is_file():
            known = ", ".join(self.names()) or "none yet"
            raise HostError(f"There is no {self.what} {name!r} (there are: {known}): {self.advice}.")
        return path

    def exchangeable(self, name: str) -> Path:
        """The path of an existing file that a route may read or delete: no link out of the folders."""
        path = self.existing(name)
        if not self.inside(path):
            raise HostError(f"The {self.what} {name!r} is a link out of its folder: put the file itself there.")
        return path

    def writable(self, name: str) -> Path:
        """The path that a route may write: no link, neither the file nor a folder on the way to it."""
        path = self.path(name)
        if path.is_symlink():
            raise HostError(f"The {self.what} {name!r} is a link: remove it, or choose another name.")
        return path

    def stored(self) -> list[tuple[str, os.stat_result]]:
        """Name and stat of each file that a route may show; one that vanishes meanwhile is left out."""
        found = []
        for name in self.names():
            try:
                path = self.path(name)
                if self.inside(path):
                    found.append((name, path.stat()))
            except (StudioError, OSError):
                continue
        return found

    def inside(self, path: Path) -> bool:
        """Whether the file, with all links followed, lies in one of the folders."""
        target = path.resolve()
        folders = folder_paths.get_folder_paths(self.key)
        return any(target.is_relative_to(Path(folder).resolve()) for folder in folders)


CALIBRATIONS = Library(
    "nvfp4_calibration", ".safetensors", "calibration", "sample once through the NVFP4 Calibrate node"
)
RECIPES = Library("nvfp4_recipes", ".json", "recipe", "save one from a plan, or put its .json file there")
SENSITIVITIES = Library("nvfp4_sensitivity", ".json", "sensitivity", "measure it once with the NVFP4 Sensitivity node")
LIBRARIES = (CALIBRATIONS, RECIPES, SENSITIVITIES)
