"""Influence is measured while stock ComfyUI samples: images do not change, layers take turns, numbers are plausible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LAYERS = 34


@pytest.fixture(scope="module")
def found(run_in_comfy: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_in_comfy("probing", work=str(tmp_path_factory.mktemp("probing")))


def test_images_do_not_change_and_nothing_stays(found: dict[str, Any]) -> None:
    assert found["equal"] == [True, True] and found["hooks"] == 0


def test_nothing_is_repeated_behind_a_cache(found: dict[str, Any]) -> None:
    assert found["wrapped"] and "wraps the model" in found["hindered"]
    assert not found["left"], "the influence of the calibration before is none of the new one"


def test_each_step_is_computed_twice_and_counted_once(found: dict[str, Any]) -> None:
    assert found["steps"] == 80 and found["calls"] == 160


def test_layers_take_turns_over_samplings(found: dict[str, Any]) -> None:
    assert sorted(found["first"].values()) == [1] * 20
    assert len(found["counts"]) == LAYERS and set(found["counts"].values()) == {2, 3}
    assert found["after_restart"] == [1] * 10
    assert "Influence measured of 10 of 34 layers." in found["text"]


def test_what_a_new_file_begins_with_follows_from_the_noise(found: dict[str, Any]) -> None:
    """Servers that begin a file for each generation cover all layers together, and a repetition gives the same one."""
    assert found["repeated"] and found["together"] > 12


def test_the_last_layers_error_arrives_whole_and_the_text_streams_hardly(found: dict[str, Any]) -> None:
    """The demo's text is one of ten classes, which a small error does not blur."""
    influence = found["influence"]
    assert 0.85 < influence["final_layer.linear"] < 1.15
    assert max(value for name, value in influence.items() if ".txt_mlp." in name) < 0.02
    assert all(0 <= value < 1.2 for value in influence.values())
