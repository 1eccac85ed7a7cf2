"""The slider of the compare nodes in both renderers: by mouse, by keys, by buttons, and nothing of it is saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

RENDERERS = ("canvas", "nodes-2.0")


@pytest.fixture(scope="module")
def seen(shown: Callable[..., Any], visit: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return visit("slider.cjs", url=shown().url)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_both_pictures_are_loaded_and_the_divider_is_in_the_middle(seen: dict[str, Any], renderer: str) -> None:
    start = seen[renderer]["start"]
    assert start["place"] == 50 and start["sizes"] == [[96, 64], [96, 64]]
    second, first = start["files"]
    assert first.startswith("nvfp4_compare_a_") and second.startswith("nvfp4_compare_b_")


@pytest.mark.parametrize("renderer", RENDERERS)
def test_the_divider_follows_the_mouse_while_it_is_held_and_the_node_stays(seen: dict[str, Any], renderer: str) -> None:
    dragged = seen[renderer]["dragged"]
    assert abs(dragged["place"] - 25) <= 1
    assert "75" in dragged["clip"] or "74" in dragged["clip"]
    assert seen[renderer]["before"] == seen[renderer]["after"]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_keys_move_the_divider_and_turn_the_picture(seen: dict[str, Any], renderer: str) -> None:
    start, keys = seen[renderer]["dragged"]["place"], seen[renderer]["keys"]
    pressed = ("ArrowRight", "Shift+ArrowLeft", "ArrowUp", "Control+ArrowLeft", "End", "Home")
    assert [keys[key]["place"] for key in pressed] == [start + 2, start - 8, start - 6, start - 6, 100, 0]
    assert keys["PageDown"]["files"] != keys["Home"]["files"]
    assert seen[renderer]["turned"]["files"] == keys["Home"]["files"], "the button turns to the first of two again"
    assert seen[renderer]["heard"].startswith("1: "), "the caption is a status, which screen readers tell"


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_workflow_keeps_nothing_of_it(seen: dict[str, Any], renderer: str) -> None:
    assert not seen[renderer]["saved"]
    assert seen["errors"] == []
