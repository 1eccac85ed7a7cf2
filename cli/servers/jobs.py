"""The generations of a run: each one a job with its prompt, seed, size, steps and guidance."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .design import assign, balance
from .factors import GUIDANCE, PROMPT, SEED, SIZE, STEPS
from .prompts import Prompt

GROUP = "group"
SEED_BITS = 48
"""Every sampler takes such a seed, and every program reads it exactly from JSON."""


@dataclass(frozen=True)
class Job:
    """One generation. levels: factor -> value, only for the factors that vary or were set."""

    number: int
    levels: Mapping[str, Any]
    group: str | None = None

    def described(self) -> dict[str, Any]:
        """As data: the levels, with a size as "1024x768"."""
        found: dict[str, Any] = {"job": self.number, **({GROUP: self.group} if self.group else {}), **self.levels}
        if SIZE in found:
            found[SIZE] = size_name(found[SIZE])
        return found


@dataclass(frozen=True)
class Plan:
    """All jobs, and how even the design came out: factor or pair -> (fewest, most) generations of a level."""

    jobs: tuple[Job, ...]
    levels: Mapping[str, int]
    balance: Mapping[str, tuple[int, int]]

    def lines(self) -> list[str]:
        """The design in words, one line for each factor and pair."""
        found = []
        for name, (fewest, most) in self.balance.items():
            often = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            what = f"{self.levels[name]} levels" if name in self.levels else "every pair of levels"
            found.append(f"{name}: {what}, {often} generations each")
        return found


def plan_jobs(
    samples: int,
    seed: int,
    prompts: Sequence[Prompt],
    *,
    seeds: bool,
    sizes: Sequence[tuple[int, int]] = (),
    steps: Sequence[int] = (),
    guidance: Sequence[float] = (),
) -> Plan:
    """The same arguments give the same jobs.

    Up to `samples` prompts are levels of the design themselves. Of more prompts the groups are the levels, and
    each group's prompts follow in an order drawn from the seed.
    """
    values: dict[str, Sequence[Any]] = {SIZE: sizes, STEPS: steps, GUIDANCE: guidance}
    groups = list(dict.fromkeys(prompt.group for prompt in prompts))
    by_group = len(prompts) > samples
    if prompts:
        values = {GROUP if by_group else PROMPT: groups if by_group else prompts, **values}
    levels = {name: len(found) for name, found in values.items() if found}
    rows = assign(levels, samples, seed) if levels else [{} for _ in range(samples)]
    following = {}
    for group in groups:
        texts = [prompt.text for prompt in prompts if prompt.group == group]
        random.Random(f"{seed} {group}").shuffle(texts)
        following[group] = iter(texts * (samples // len(texts) + 1))
    jobs = []
    for number, row in enumerate(rows, 1):
        chosen = {name: values[name][level] for name, level in row.items()}
        group = chosen.pop(GROUP, None)
        if PROMPT in chosen:
            group, chosen[PROMPT] = chosen[PROMPT].group, chosen[PROMPT].text
        elif group is not None:
            chosen = {PROMPT: next(following[group]), **chosen}
        if seeds:
            chosen[SEED] = random.Random(f"{seed} job {number}").getrandbits(SEED_BITS)
        jobs.append(Job(number, chosen, group))
    return Plan(tuple(jobs), levels, balance(rows, levels))


def size_name(size: tuple[int, int]) -> str:
    """ "1024x768", width first."""
    return f"{size[0]}x{size[1]}"
