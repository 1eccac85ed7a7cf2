# ruff: noqa: I001  (ComfyUI must be set up before it is imported)
"""What the pack changes in ComfyUI by being there: every attribute of its modules and classes before and after."""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from bootstrap import answer, load_pack

import execution
import folder_paths
import server

LOOKED_AT = ("model_management", "model_patcher", "ops", "quant_ops", "sample", "samplers", "sd", "utils")
ROOTS = ("comfy", "comfy_api", "comfy_execution", "execution", "server", "nodes", "folder_paths", "latent_preview")


def snapshot() -> dict[str, int]:
    """Name -> identity of each attribute of ComfyUI's modules and of their classes, submodules apart."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ROOTS:
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, ModuleType) or key.startswith("__"):
                continue
            found[f"{name}.{key}"] = id(value)
            if isinstance(value, type) and value.__module__.partition(".")[0] in ROOTS:
                for attribute, inner in list(vars(value).items()):
                    if not attribute.startswith("_abc_"):
                        found[f"{name}.{key}.{attribute}"] = id(inner)
    return found


for part in LOOKED_AT:
    import_module(f"comfy.{part}")


async def loaded() -> dict[str, Any]:
    instance = server.PromptServer(asyncio.get_running_loop())
    folders = set(folder_paths.folder_names_and_paths)
    before = snapshot()
    pack = load_pack()
    extension = await pack.comfy_entrypoint()
    await extension.on_load()
    nodes = [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]
    after = snapshot()
    routes = [route.path for route in instance.routes if "nvfp4" in route.path]
    return {
        "changed": sorted(key for key in before.keys() & after.keys() if before[key] != after[key]),
        "removed": sorted(before.keys() - after.keys()),
        "folders": sorted(set(folder_paths.folder_names_and_paths) - folders),
        "handlers": len(instance.on_prompt_handlers),
        "foreign_routes": len([path for path in routes if not path.startswith("/nvfp4_studio/")]),
        "routes": len(routes),
        "nodes": nodes,
        "executors": sorted(name for name in vars(execution) if "nvfp4" in name.lower()),
        "imported": sorted(name for name in sys.modules if name.startswith("custom_nodes_nvfp4.")),
    }


answer(**asyncio.run(loaded()))
