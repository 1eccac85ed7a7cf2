"""Run the node of ComfyUI_Kitchen_nvfp4_Converter outside ComfyUI.

    python run_kitchen_node.py CLONE SOURCE TARGET

The node asks ComfyUI for two things only, the folder of a model and a progress bar; both are stood in for.
It writes beside its source, so it gets a folder with a link to the source, and the target is where it puts it.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

SUFFIX = "_nvfp4"


def stand_in(source: Path) -> None:
    """Modules `folder_paths` and `comfy.utils` with what the node calls."""
    paths, comfy, utils = (types.ModuleType(name) for name in ("folder_paths", "comfy", "comfy.utils"))
    paths.get_full_path = lambda kind, name: str(source)
    paths.get_filename_list = lambda kind: [source.name]
    utils.ProgressBar = lambda total: types.SimpleNamespace(update_absolute=lambda value: None)
    comfy.utils = utils
    sys.modules.update({"folder_paths": paths, "comfy": comfy, "comfy.utils": utils})


def main() -> None:
    clone, source, target = (Path(argument) for argument in sys.argv[1:])
    if not target.stem.endswith(SUFFIX):
        sys.exit(f"{target.name}: the node ends the names of its files with {SUFFIX}.")
    link = target.with_name(f"source-of-{target.name}")
    link.unlink(missing_ok=True)
    link.symlink_to(source)
    stand_in(link)
    spec = importlib.util.spec_from_file_location("node", clone / "convert_to_nvfp4_node.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name = target.stem.removesuffix(SUFFIX)
    module.ConvertToNVFP4().convert(link.name, name, "Qwen-Image-Edit-2511", "NVFP4", "cpu")


if __name__ == "__main__":
    main()
