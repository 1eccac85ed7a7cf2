"""Answers as JSON that every browser reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvfp4_studio.nodes.studio.plain import DEPTH, as_json


def strict(text: str) -> Any:
    """As a browser reads it: NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_without_a_word_in_json_are_null(value: float) -> None:
    assert strict(as_json({"a": [1, 0.5, (value,)], "b": True})) == {"a": [1, 0.5, [None]], "b": True}


def test_what_is_too_deep_is_cut() -> None:
    found: Any = "end"
    for _ in range(100_000):
        found = [found]
    text = as_json({"deep": found, "flat": "\ud800 stays"})
    assert text.count("[") == DEPTH - 1 and strict(text)["flat"] == "\ud800 stays"
