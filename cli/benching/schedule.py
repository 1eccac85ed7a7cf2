"""Which model makes which picture when.

The prompts are cut into blocks. Within a block every model makes the same pictures, one model after the other, and
the order of the models changes from block to block: each run of as many blocks as there are models is a Latin square
with rows and columns drawn from the seed, so every model stands in every place equally often. A machine that becomes
slower, evenly or at once, then slows all of them.

A block costs every model one load. The first picture after it is that model's cold start and no warm time. Ten
pictures a block keep a tenth of the pictures for that; fewer than five blocks would leave little to compare in time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..servers.jobs import SEED_BITS
from ..servers.prompts import OWN_GROUP, Prompt

COLD, WARM = "cold", "warm"
"""Kinds of a generation: the first after a load, and those that follow."""

LARGEST_BLOCK = 10
FEWEST_BLOCKS = 5


@dataclass(frozen=True)
class Shot:
    """One picture that every model makes. seed: None where the workflow has no place for one."""

    number: int
    text: str | None
    group: str | None
    seed: int | None


@dataclass(frozen=True)
class Segment:
    """The pictures of one block with one model. place: 0 for the model that begins the block."""

    block: int
    place: int
    model: int
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Schedule:
    """All of it. orders: of each block, the models in their order."""

    shots: tuple[Shot, ...]
    block_size: int
    orders: tuple[tuple[int, ...], ...]

    def segments(self) -> list[Segment]:
        """In the order in which they are carried out."""
        found = []
        for block, order in enumerate(self.orders):
            shots = self.shots[block * self.block_size : (block + 1) * self.block_size]
            found += [Segment(block, place, model, shots) for place, model in enumerate(order)]
        return found


def make_schedule(
    count: int, models: int, seed: int, prompts: Sequence[Prompt], *, seeds: bool = True, block: int | None = None
) -> Schedule:
    """The same arguments give the same schedule. prompts: empty where the workflow has no place for one."""
    size = block or default_block(count)
    texts = _chosen(prompts, count, seed)
    shots = tuple(
        Shot(
            number,
            texts[number - 1].text if texts else None,
            texts[number - 1].group if texts else None,
            random.Random(f"{seed} picture {number}").getrandbits(SEED_BITS) if seeds else None,
        )
        for number in range(1, count + 1)
    )
    return Schedule(shots, size, _orders(models, -(-count // size), seed))


def default_block(count: int) -> int:
    """Ten pictures, fewer where that would be less than five blocks, but no block of one: it has no warm time."""
    return min(max(2, min(LARGEST_BLOCK, count // FEWEST_BLOCKS)), count)


def _orders(models: int, blocks: int, seed: int) -> tuple[tuple[int, ...], ...]:
    generator = random.Random(f"{seed} orders")
    found: list[tuple[int, ...]] = []
    while len(found) < blocks:
        first, shifts = list(range(models)), list(range(models))
        generator.shuffle(first)
        generator.shuffle(shifts)
        found += [tuple(first[(place + shift) % models] for place in range(models)) for shift in shifts]
    return tuple(found[:blocks])


def _chosen(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """Prompts of one's own in their order; of the built-in ones the groups in turn, each in an order from the seed.

    They begin again when there are fewer than `count`; the pictures' seeds differ all the same.
    """
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.group, []).append(prompt)
    for name, members in groups.items():
        if name != OWN_GROUP:
            random.Random(f"{seed} {name}").shuffle(members)
    turns = max((len(members) for members in groups.values()), default=0)
    order = [members[turn] for turn in range(turns) for members in groups.values() if turn < len(members)]
    return [order[number % len(order)] for number in range(count)] if order else []
