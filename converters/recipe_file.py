"""Recipe files: reading, checking and writing them, and the built-in ones."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..calibration.files import write_atomically
from .errors import PlanError
from .pins import parse_pins
from .recipe import POLICIES, Limits, Recipe, Rule

RECIPE_FOLDER = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 1_000_000


def available_recipes() -> dict[str, Recipe]:
    """All built-in recipes by name."""
    return {path.stem: _read(path) for path in sorted(RECIPE_FOLDER.glob("*.json"))}


def load_recipe(name: str) -> Recipe:
    """Return a built-in recipe, or read a user's file (a name that ends in ``.json``).

    Raises:
        PlanError: no such recipe, not a recipe, or a policy that nvfp4-studio cannot write.
    """
    if name.endswith(".json"):
        return _read(Path(name))
    known = {path.stem for path in RECIPE_FOLDER.glob("*.json")}
    if name not in known:
        raise PlanError(f"There is no recipe {name!r}; choose one of {', '.join(sorted(known))} or a .json file.")
    return _read(RECIPE_FOLDER / f"{name}.json")


def _read(path: Path) -> Recipe:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise PlanError(f"{path} has {path.stat().st_size} bytes, too many for a recipe.")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PlanError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"The recipe {path} is not JSON ({error}).") from error
    return parse_recipe(path.stem, data)


def parse_recipe(name: str, data: Any) -> Recipe:
    """Check a recipe read from JSON and return it.

    Raises:
        PlanError: with the field that is wrong and what is expected there.
    """
    if not isinstance(data, dict) or not isinstance(data.get("rules"), list):
        raise PlanError(
            f'Recipe {name} has no list "rules"; write one like {{"rules": [{{"policy": "nvfp4", "match": ["attn"]}}]}}.'
        )
    if data.get("replace_names"):
        raise PlanError(
            f'Recipe {name} renames keys ("replace_names"), which nvfp4-studio does not do; rename them first.'
        )
    blocks = data.get("block_names", ["block", "transformer", "layer"])
    if blocks != "repeated" and not _texts(blocks):
        raise PlanError(
            f'Recipe {name}: "block_names" must be a list of texts or "repeated", not {str(blocks)[:80]!r}.'
        )
    rules = []
    for number, rule in enumerate(data["rules"], 1):
        if not isinstance(rule, dict) or not _texts(rule.get("match", [])):
            raise PlanError(f'Recipe {name}: rule {number} needs a "policy" and a list of texts "match".')
        if rule.get("policy") not in POLICIES:
            raise PlanError(
                f"Recipe {name}: rule {number} has the policy {str(rule.get('policy'))[:40]!r}; "
                f"nvfp4-studio writes {', '.join(POLICIES)}."
            )
        rules.append(Rule(rule["policy"], tuple(rule.get("match", []))))
    title = data.get("title", name)
    return Recipe(
        name=name,
        title=title if isinstance(title, str) else name,
        block_names=None if blocks == "repeated" else tuple(blocks),
        rules=tuple(rules),
        limits=_limits(name, data.get("limits", {})),
        layers=parse_pins(name, data.get("layers", {})),
    )


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as its file's JSON, of which ``parse_recipe`` makes an equal one under the same name."""
    limits = {key: value for key, value in asdict(recipe.limits).items() if value != getattr(Limits, key)}
    data: dict[str, Any] = {
        "title": recipe.title,
        "block_names": "repeated" if recipe.block_names is None else list(recipe.block_names),
        "rules": [{"policy": rule.policy, "match": list(rule.match)} for rule in recipe.rules],
    }
    if limits:
        data["limits"] = limits
    if recipe.layers:
        data["layers"] = {layer: pin.to_json() for layer, pin in recipe.layers.items()}
    return data


def content_of(recipe: Recipe) -> dict[str, Any] | None:
    """What a converted file's header says of its recipe beside the name; None for a built-in one."""
    path = RECIPE_FOLDER / f"{recipe.name}.json"
    return None if path.is_file() and _read(path) == recipe else recipe_to_json(recipe)


def save_recipe(path: str | os.PathLike[str], recipe: Recipe) -> None:
    """Write a recipe as a file that ``load_recipe`` reads; it appears whole or not at all.

    Raises:
        PlanError: the name does not end in .json, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise PlanError(f"The recipe {path.name} must end in .json; choose another name.")
    try:
        write_atomically(path, f"{json.dumps(recipe_to_json(recipe), indent=1, ensure_ascii=False)}\n".encode())
    except OSError as error:
        raise PlanError(f"The recipe {path} cannot be written: {error.strerror or error}.") from error


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _limits(name: str, data: Any) -> Limits:
    known = Limits.__dataclass_fields__
    if not isinstance(data, dict) or not all(key in known and type(n) is int and n >= 0 for key, n in data.items()):
        raise PlanError(f'Recipe {name}: "limits" takes whole numbers for {", ".join(known)}, not {str(data)[:80]!r}.')
    if data.get("divisible_by") == 0:
        raise PlanError(f'Recipe {name}: "divisible_by" must be at least 1.')
    return Limits(**data)
