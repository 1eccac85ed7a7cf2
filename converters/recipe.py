"""Layer policies as data: which weights become NVFP4, FP8 or another format, and which stay.

The schema is that of comfy-dit-quantizer's configuration files, so that users' own files work:
``block_names`` (substrings, one of which a key must contain) and ``rules`` in order, each with a
``policy`` and a ``match`` list of substrings; the first rule that matches wins and a key that no
rule matches is kept. Three fields are ours and optional:

* ``title``: one sentence for people;
* ``block_names: "repeated"``: the repeated blocks of any model, found by counting;
* ``limits``: ``divisible_by`` and ``minimum_width`` for both sides of a weight that becomes
  anything but FP8, and
  ``edge_blocks``, how many first and last blocks of each stack are kept, whatever the rules say, in
  stacks of at least six.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import formats
from .errors import PlanError

POLICIES = ("keep", *formats.POLICIES)
UNLIMITED = ("keep", formats.fp8.NAME)
"""Policies that a recipe's limits do not concern: FP8 holds any matrix and changes little."""
RECIPE_FOLDER = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 1_000_000
EDGE_STACK = 6
"""Below six blocks a stack is too short for its edges to be kept: nothing would be left to convert."""


@dataclass(frozen=True)
class Rule:
    policy: str
    match: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """What a weight must fulfil before a rule may change it."""

    divisible_by: int = 1
    minimum_width: int = 1
    edge_blocks: int = 0


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules. ``block_names`` is None for "the repeated blocks"."""

    name: str
    title: str
    block_names: tuple[str, ...] | None
    rules: tuple[Rule, ...]
    limits: Limits

    def policy(self, key: str, shape: tuple[int, int], blocks: Blocks) -> tuple[str, str]:
        """Return the policy for one weight key and the reason in a few words.

        Args:
            key: the weight's full name in the file, as users' files match it.
            shape: (out_features, in_features).
            blocks: the repeated blocks of the same file.
        """
        inside = blocks.contain(key) if self.block_names is None else any(part in key for part in self.block_names)
        if not inside:
            return "keep", "outside the blocks"
        for rule in self.rules:
            found = next((part for part in rule.match if part in key), None)
            if found is None:
                continue
            label = f'rule {rule.policy}: "{found}"' if found else f"rule {rule.policy}: every layer"
            if rule.policy != "keep" and blocks.on_edge(key, self.limits.edge_blocks):
                return "keep", "first or last block"
            return (rule.policy, label) if rule.policy in UNLIMITED else self._within_limits(shape, rule.policy, label)
        return "keep", "no rule matches"

    def _within_limits(self, shape: tuple[int, int], policy: str, label: str) -> tuple[str, str]:
        limits = self.limits
        if any(side % limits.divisible_by for side in shape):
            return "keep", f"{shape[0]}×{shape[1]} is not divisible by {limits.divisible_by}"
        if min(shape) < limits.minimum_width:
            return "keep", f"{shape[0]}×{shape[1]} is narrower than {limits.minimum_width}"
        return policy, label


@dataclass(frozen=True)
class Blocks:
    """Repeated blocks of a model: for each stack (``transformer_blocks.``) the number of its blocks."""

    stacks: Mapping[str, int]

    @classmethod
    def find(cls, keys: Iterable[str]) -> Blocks:
        """A stack is a name followed by at least two indices that hold the same set of 2-D weights."""
        members: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for key in keys:
            match = re.match(r"((?:[A-Za-z_]\w*\.)*?[A-Za-z_]\w*\.)(\d{1,6})\.(.+)$", key)
            if match:
                members[match[1]][int(match[2])].add(match[3])
        stacks = {}
        for stack, blocks in members.items():
            largest = max(blocks.values(), key=len)
            alike = sum(len(block & largest) * 2 > len(largest) for block in blocks.values())
            if len(largest) > 1 and alike >= 2:
                stacks[stack] = max(blocks) + 1
        return cls(stacks)

    def contain(self, key: str) -> bool:
        return self._position(key) is not None

    def on_edge(self, key: str, edge: int) -> bool:
        position = self._position(key)
        if position is None or edge == 0 or position[1] < EDGE_STACK:
            return False
        index, count = position
        return index < edge or index >= count - edge

    def _position(self, key: str) -> tuple[int, int] | None:
        for stack, count in self.stacks.items():
            if key.startswith(stack):
                index = key[len(stack) :].partition(".")[0]
                if index.isdecimal() and len(index) <= 6:
                    return int(index), count
        return None


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
        raise PlanError(f'Recipe {name} has no list "rules"; see docs of comfy-dit-quantizer for the schema.')
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
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _limits(name: str, data: Any) -> Limits:
    known = Limits.__dataclass_fields__
    if not isinstance(data, dict) or not all(key in known and type(n) is int and n >= 0 for key, n in data.items()):
        raise PlanError(f'Recipe {name}: "limits" takes whole numbers for {", ".join(known)}, not {str(data)[:80]!r}.')
    if data.get("divisible_by") == 0:
        raise PlanError(f'Recipe {name}: "divisible_by" must be at least 1.')
    return Limits(**data)
