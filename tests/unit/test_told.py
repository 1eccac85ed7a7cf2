"""The server's sentences in the user's language: the page knows each by its English text, which is Python's own."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEAKERS = ("calibration", "converters", "nodes")

ALWAYS_SEEN = {
    "calibration/convergence.py": ("convergence",),
    "calibration/coverage.py": ("coverage", "_schedule_advice"),
    "calibration/scales.py": ("POLICIES", "_calls_range", "_nonfinite_note"),
    "converters/planning/activations.py": ("check_calibration", "activation"),
    "converters/budget/planning.py": ("_pin",),
    "converters/budget/selection.py": ("impossible",),
    "converters/convert.py": ("convert",),
    "converters/planning/decided.py": ("carried", "untouched"),
    "converters/encode.py": ("encode",),
    "converters/encoders.py": ("Encoder", "TEXT_ENCODER_CHOICES"),
    "converters/planning/layer_rules.py": ("decide_layer", "_gain", "_kept_fp8", "_fp8_bystander"),
    "converters/planning/obstacles.py": ("obstacle", "already", "_GUARDED", "NOT_LINEAR"),
    "converters/planning/passthrough.py": ("repairs_of",),
    "converters/pins.py": ("PINNED",),
    "converters/plan.py": ("notes_of",),
    "converters/recipe.py": ("OUTSIDE", "EDGE", "Recipe"),
    "converters/searching.py": ("_pinned", "_searched"),
    "converters/rounding/__init__.py": ("PRE_QUANT_CHOICES", "ROUNDINGS", "rounding_for"),
    "nodes/texts.py": (
        "before_sampling",
        "cost_text",
        "during_sampling",
        "coverage_text",
        "sensitivity_text",
        "idle_text",
        "plan_notes",
        "kernels_text",
    ),
    "nodes/studio/deciding.py": ("BY_HAND",),
    "nodes/studio/prediction.py": ("total",),
    "nodes/studio/speed.py": ("predicted_speed",),
    **{f"converters/formats/{name}.py": ("refusal",) for name in ("convrot_w4a4", "int8", "mxfp8", "w4a8_int8")},
    **{
        f"converters/rounding/{name}.py": ("HELP",)
        for name in ("block_search", "block_search_mse", "four_over_six", "nearest")
    },
    **{f"converters/rounding/{name}.py": ("HELP", "missing") for name in ("gptq", "weighted")},
}
"""Functions, classes and constants whose words stand in the tab in every use: reasons, repairs, advice, notes, labels
of the progress, what the choices mean. Of errors, those that a user meets first are known to the page as well."""


def blanked(text: str) -> str:
    """A text with nothing of what changes in it."""
    return re.sub(r"(\{\})+", "{}", re.sub(r"\{\w+\}", "{}", text))


def templates(tree: dict[str, Any]) -> Iterator[str]:
    for value in tree.values():
        if isinstance(value, dict):
            yield from templates(value)
        else:
            yield blanked(value)


GROUPS = json.loads((ROOT / "locales" / "en" / "main.json").read_text("utf-8"))["nvfp4Studio"]["told"]
RECIPES = GROUPS.pop("recipe")
TOLD = set(templates(GROUPS))


def texts_in(node: ast.AST) -> Iterator[str]:
    """Every line of text in a piece of code, with {} for what is put into it; docstrings and errors are none."""
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield from blanked(text).split("\n")
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts_in(part.value)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from node.value.split("\n")
    for child in ast.iter_child_nodes(node):
        yield from texts_in(child)


def named(tree: ast.AST, name: str) -> ast.AST:
    """The function, class or constant of this name."""
    for node in ast.walk(tree):
        assigned = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = {part.id for target in assigned if target for part in ast.walk(target) if isinstance(part, ast.Name)}
        if getattr(node, "name", None) == name or name in names:
            return node
    raise AssertionError(f"there is no {name} any more")


def test_every_sentence_that_the_page_knows_is_said_by_the_server() -> None:
    said: set[str] = set()
    for folder in SPEAKERS:
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            raised = (node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc)
            for part in (tree, *raised):
                said.update(texts_in(part))
    assert TOLD - said == set()


def test_every_recipes_title_is_in_every_language() -> None:
    files = (ROOT / "converters" / "recipes").glob("*.json")
    assert {file.stem: json.loads(file.read_text("utf-8"))["title"] for file in files} == RECIPES


@pytest.mark.parametrize("file", ALWAYS_SEEN)
def test_every_sentence_that_is_always_seen_is_in_every_language(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    spoken = {text for name in ALWAYS_SEEN[file] for text in texts_in(named(tree, name))}
    words = re.compile(r"(?! ).*[a-z]{2,}[^a-z]* [^a-z]*[a-z]{2,}")  # what begins with a space goes on with a sentence
    assert [text for text in spoken - TOLD if words.match(text)] == []
