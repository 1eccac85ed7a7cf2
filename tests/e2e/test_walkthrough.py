"""The user's way through the browser, in both renderers: calibrate, press the button, find the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONVERTED = ("aio-nvfp4", "nested")


@pytest.fixture(scope="module", params=["canvas", "nodes-2.0"])
def walk(
    request: pytest.FixtureRequest, shown: Callable[..., Any], visit: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """One walk through the frontend with this renderer, and what was seen."""
    vue = request.param != "canvas"
    server = shown(request.param)
    server.request("/nvfp4_studio/calibrations/delete", {"name": "my-model"})
    for name in CONVERTED:
        server.request("/nvfp4_studio/results/delete", {"id": f"checkpoints/{name}.safetensors"})
    asked: dict[str, Any] = {"url": server.url, "vue": vue, "checkpoint": "aio.safetensors"}
    folder = os.environ.get("NVFP4_SCREENSHOTS")
    if folder:
        asked["screenshot"] = str(Path(folder) / f"{request.param}.png")
        nodes = () if vue else ("calibrate", "convert")
        asked["pictures"] = {str(Path(folder) / f"{node}.png"): node for node in nodes}
    return {**visit("walkthrough.cjs", **asked), "server": server}


def test_the_calibrate_node_tells_what_it_collects(walk: dict[str, Any]) -> None:
    assert walk["calibrated"][-1].startswith("my-model: 3 images, 24 steps, ")
    assert "largest amax" in walk["report"]


def test_an_ordinary_prompt_carries_no_token_and_converts_nothing(walk: dict[str, Any]) -> None:
    assert walk["tokens"][:4] == [None] * 4
    assert "Press the button" in walk["ordinary"]


def test_the_button_queues_its_own_node_alone_with_a_token(walk: dict[str, Any]) -> None:
    assert walk["targets"][4] == ["9"] and len(walk["tokens"][4]) >= 32
    assert (walk["server"].base / "output" / "checkpoints" / "aio-nvfp4.safetensors").is_file()


def test_the_node_shows_the_result(walk: dict[str, Any]) -> None:
    lines = walk["converted"].splitlines()
    assert lines[0] == "aio-nvfp4.safetensors" and "% of the source" in lines[1] and "worst" in lines[3]
    assert walk["visible"]


def test_the_workflow_keeps_the_nodes_values_and_no_token(walk: dict[str, Any]) -> None:
    assert len(walk["values"]) == 11 and not walk["saved_token"]


def test_the_browser_saw_no_error(walk: dict[str, Any]) -> None:
    assert walk["errors"] == []


def test_a_loader_offers_to_convert_its_file(walk: dict[str, Any]) -> None:
    assert walk["added"] == {"source": "checkpoints/aio.safetensors", "other": 0}


def test_the_button_works_inside_a_subgraph(walk: dict[str, Any]) -> None:
    outer, inner = walk["nested"]["id"].split(":")
    assert walk["targets"][5:] == [[f"{outer}:{inner}"]]
    assert (walk["server"].base / "output" / "checkpoints" / "nested.safetensors").is_file()


def test_a_prompt_that_the_server_refused_is_not_called_queued(walk: dict[str, Any]) -> None:
    assert walk["nested"]["refused"] == walk["nested"]["text"]
