"""The pack is a guest: by being there it changes nothing of ComfyUI, so a prompt that does not use it pays nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_in_comfy("untouched")


def test_no_attribute_of_comfyui_is_replaced_or_removed(found: dict[str, Any]) -> None:
    assert found["changed"] == [] and found["removed"] == [] and found["executors"] == []


def test_prompts_pass_no_handler_of_the_pack(found: dict[str, Any]) -> None:
    assert found["handlers"] == 0


def test_all_routes_and_folders_bear_the_packs_name(found: dict[str, Any]) -> None:
    assert found["routes"] > 10 and found["foreign_routes"] == 0
    assert found["folders"] == ["nvfp4_calibration", "nvfp4_recipes", "nvfp4_sensitivity"]
    assert len(found["nodes"]) == len(set(found["nodes"])) and all(name.startswith("NVFP4") for name in found["nodes"])


def test_what_only_a_run_needs_is_not_imported_at_the_start(found: dict[str, Any]) -> None:
    for late in ("converters.convert", "calibration.collector", "converters.plots.bars", "nodes.studio.planning"):
        assert f"custom_nodes_nvfp4.{late}" not in found["imported"]
