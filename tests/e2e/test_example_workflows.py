"""The example workflows in ComfyUI's own frontend: nothing is missing, no value moved, and the server would take them.

``NVFP4_THUMBNAILS=example_workflows`` writes the pictures that the template dialog shows into that folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "example_workflows").glob("*.json"))
NAMES = [path.stem for path in EXAMPLES]
FOLDERS = {"ckpt_name": "checkpoints", "unet_name": "diffusion_models", "clip_name": "text_encoders", "vae_name": "vae"}
"""Inputs that name a model file, and the folder where the loader looks for it."""


@pytest.fixture(scope="module")
def front(shown: Callable[..., Any], visit: Callable[..., dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the frontend made of every example, where the files that they name exist, and what the server knows."""
    server = shown()
    named = {found for path in EXAMPLES for found in model_files(json.loads(path.read_text("utf-8")))}
    files = [server.base / "models" / folder / name for folder, name in named]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    thumbnails = os.environ.get("NVFP4_THUMBNAILS")
    seen = visit(
        "examples.cjs",
        url=server.url,
        names=NAMES,
        languages=["fr", "zh", "ja"],
        thumbnails=os.path.abspath(thumbnails) if thumbnails else None,
    )
    yield {**seen, "info": server.request("/object_info")[1]}
    for file in files:
        file.unlink()


def model_files(workflow: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Folder and name of each model file that a loader of the workflow names."""
    loaders = {
        "CheckpointLoaderSimple": "ckpt_name",
        "UNETLoader": "unet_name",
        "CLIPLoader": "clip_name",
        "VAELoader": "vae_name",
    }
    for node in workflow["nodes"]:
        if node["type"] in loaders:
            yield FOLDERS[loaders[node["type"]]], node["widgets_values"][0]


@pytest.mark.parametrize("name", NAMES)
def test_the_frontend_knows_every_node_and_keeps_every_value(front: dict[str, Any], name: str) -> None:
    seen = front["workflows"][name]
    assert seen["unknown"] == [] and seen["moved"] == [] and seen["dialogs"] == []
    assert seen["nodes"][0] == seen["nodes"][1] and seen["links"][0] == seen["links"][1] > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_server_would_take_the_prompt(front: dict[str, Any], name: str) -> None:
    prompt = front["workflows"][name]["prompt"]
    assert prompt and [wrong for key in prompt for wrong in complaints(prompt, key, front["info"])] == []


def complaints(prompt: dict[str, Any], key: str, info: dict[str, Any]) -> Iterator[str]:
    """What ComfyUI's own validation would say of one node: inputs missing, links of another type, values out of range."""
    node = prompt[key]
    definition = info[node["class_type"]]
    given = node["inputs"]
    for name, spec in {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}.items():
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        where = f"{node['class_type']}.{name}"
        if name not in given:
            if name in definition["input"].get("required", {}):
                yield f"{where} is missing"
        elif isinstance(given[name], list):
            source, slot = given[name]
            made = info[prompt[source]["class_type"]]["output"][slot]
            if kind not in ("*", made):
                yield f"{where} takes {kind}, not {made}"
        elif isinstance(kind, list) or kind == "COMBO":
            choices = kind if isinstance(kind, list) else options["options"]
            # A calibration comes into being with the first Run; the node's own validation allows for it.
            if given[name] not in choices and not (node["class_type"].startswith("NVFP4") and name == "calibration"):
                yield f"{where} has no choice {given[name]!r}"
        elif kind in ("INT", "FLOAT") and not options.get("min", given[name]) <= given[name] <= options.get(
            "max", given[name]
        ):
            yield f"{where} is out of range: {given[name]}"


def test_every_example_has_its_picture() -> None:
    assert {path.stem for path in EXAMPLES[0].parent.glob("*.jpg")} == set(NAMES)


def test_nodes_speak_the_users_language(front: dict[str, Any]) -> None:
    locales = EXAMPLES[0].parents[1] / "locales"
    for language, seen in front["languages"].items():
        node = json.loads((locales / language / "nodeDefs.json").read_text("utf-8"))["NVFP4Convert"]
        studio = json.loads((locales / language / "main.json").read_text("utf-8"))["nvfp4Studio"]
        assert seen == {
            "title": node["display_name"],
            "source": node["inputs"]["source"]["name"],
            "button": studio["node"]["convert"],
            "help": f"# {node['display_name']}",
        }


def test_the_browser_saw_no_error(front: dict[str, Any]) -> None:
    assert front["errors"] == []
