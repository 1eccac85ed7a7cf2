# ruff: noqa: E402, I001  (ComfyUI must be set up before it is imported)
"""First import of every script: ComfyUI on the CPU, and this pack under the name that it gets there."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any

REQUEST: dict[str, Any] = json.loads(sys.argv[1])

sys.path.insert(0, REQUEST["comfyui"])
sys.argv = ["main.py", "--cpu", "--base-directory", REQUEST["base"]]

import comfy.options

comfy.options.enable_args_parsing()

import torch

torch.set_num_threads(1)

import folder_paths
import nodes  # noqa: F401  (ComfyUI's nodes.py, before this pack's package of the same name)


def load_pack() -> ModuleType:
    """Import the pack as ComfyUI does: from its folder, under a name that is not ``nvfp4_studio``."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_nvfp4", f"{REQUEST['pack']}/__init__.py", submodule_search_locations=[REQUEST["pack"]]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_nodes_nvfp4"] = module
    spec.loader.exec_module(module)
    for key in ("checkpoints", "diffusion_models"):
        folder_paths.add_model_folder_path(key, f"{folder_paths.get_output_directory()}/{key}")
    return module


def answer(**result: Any) -> None:
    """Give the result back to the test."""
    print("RESULT " + json.dumps(result), flush=True)


def hooks_on(root: torch.nn.Module) -> int:
    """Forward hooks of any kind on any module of the tree."""
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) + len(module._backward_hooks)
        for module in root.modules()
    )
