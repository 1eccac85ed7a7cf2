"""Layer policies as data: which weights become NVFP4, FP8 or another format, and which stay.

The schema is that of comfy-dit-quantizer's configuration files, so that users' own files work:
``block_names`` (substrings, one of which a key must contain) and ``rules`` in order, each with a
``policy`` and a ``match`` list of substrings; the first rule that matches wins and a key that no
rule matches is kept. Four fields are ours and optional:

* ``title``: one sentence for people;
* ``block_names: "repeated"``: the repeated blocks of any model, found by counting;
* ``limits``: ``divisible_by`` and ``minimum_width`` for both sides of a weight that becomes
  anything but FP8, and
  ``edge_blocks``, how many first and last blocks of each stack are kept, whatever the rules say, in
  stacks of at least six;
* ``layers``: single layers that are pinned to a policy, see ``pins``. They come before rules and limits.

``recipe_file`` reads and writes the files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import formats
from .pins import Pin

POLICIES = ("keep", *formats.POLICIES)
UNLIMITED = ("keep", formats.fp8.NAME)
"""Policies that a recipe's limits do not concern: FP8 holds any matrix and changes little."""
OUTSIDE, EDGE = "outside the blocks", "first or last block"
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
    """An ordered list of rules, and layers that are pinned to a policy by their module names.

    ``block_names`` is None for "the repeated blocks".
    """

    name: str
    title: str
    block_names: tuple[str, ...] | None
    rules: tuple[Rule, ...]
    limits: Limits
    layers: Mapping[str, Pin] = field(default_factory=dict)

    def policy(self, key: str, shape: tuple[int, int], blocks: Blocks) -> tuple[str, str]:
        """Return the policy that the rules give one weight key and the reason in a few words; pins are not looked at.

        Args:
            key: the weight's full name in the file, as users' files match it.
            shape: (out_features, in_features).
            blocks: the repeated blocks of the same file.
        """
        policy, reason = self._ruled(key, blocks)
        beyond = self._beyond_limits(shape, policy)
        return ("keep", beyond) if beyond else (policy, reason)

    def forbids(
        self, key: str, shape: tuple[int, int], policy: str, blocks: Blocks, *, beyond_rules: bool = False
    ) -> str | None:
        """Why a weight must not have a policy that was chosen by measurement, in a few words; None when it may.

        Blocks and limits hold for measured choices too, and so does what rules keep, unless ``beyond_rules``; which of
        the other policies a rule names does not. ``policy`` is not ``keep``; the other arguments are those of ``policy``.
        """
        hindrance = self._beyond_limits(shape, policy)
        if not self._inside(key, blocks):
            hindrance = OUTSIDE
        elif blocks.on_edge(key, self.limits.edge_blocks):
            hindrance = EDGE
        if hindrance or beyond_rules:
            return hindrance
        ruled, reason = self._ruled(key, blocks)
        return reason if ruled == "keep" else None

    def _ruled(self, key: str, blocks: Blocks) -> tuple[str, str]:
        if not self._inside(key, blocks):
            return "keep", OUTSIDE
        for rule in self.rules:
            found = next((part for part in rule.match if part in key), None)
            if found is None:
                continue
            if rule.policy != "keep" and blocks.on_edge(key, self.limits.edge_blocks):
                return "keep", EDGE
            return rule.policy, f'rule {rule.policy}: "{found}"' if found else f"rule {rule.policy}: every layer"
        return "keep", "no rule matches"

    def _inside(self, key: str, blocks: Blocks) -> bool:
        return blocks.contain(key) if self.block_names is None else any(part in key for part in self.block_names)

    def _beyond_limits(self, shape: tuple[int, int], policy: str) -> str | None:
        limits = self.limits
        if policy in UNLIMITED:
            return None
        if any(side % limits.divisible_by for side in shape):
            return f"{shape[0]}×{shape[1]} is not divisible by {limits.divisible_by}"
        if min(shape) < limits.minimum_width:
            return f"{shape[0]}×{shape[1]} is narrower than {limits.minimum_width}"
        return None


def with_pins(recipe: Recipe, pins: Mapping[str, Pin], *, name: str, title: str) -> Recipe:
    """The same rules under another name, with layers pinned; a layer that was pinned before gets its new pin."""
    return replace(recipe, name=name, title=title, layers={**recipe.layers, **pins})


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
