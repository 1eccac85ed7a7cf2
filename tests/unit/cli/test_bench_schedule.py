"""The schedule of a comparison: balanced, complete, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest

from nvfp4_studio.cli.benching.schedule import Schedule, default_block, make_schedule
from nvfp4_studio.cli.servers.prompts import OWN_GROUP, Prompt, read_prompts

OWN = [Prompt(f"prompt {number}", OWN_GROUP) for number in range(6)]


def orders_by_place(schedule: Schedule) -> list[Counter[int]]:
    return [Counter(column) for column in zip(*schedule.orders, strict=True)]


@pytest.mark.parametrize("models", [1, 2, 3, 5])
def test_every_model_stands_in_every_place_equally_often(models: int) -> None:
    for seed in range(20):
        schedule = make_schedule(4 * models, models, seed, OWN, block=2)
        assert all(sorted(order) == list(range(models)) for order in schedule.orders)
        assert orders_by_place(schedule) == [Counter(dict.fromkeys(range(models), 2))] * models


def test_every_model_makes_every_picture_once_and_within_a_block_the_same_ones() -> None:
    schedule = make_schedule(23, 3, 5, OWN)
    made = Counter((segment.model, shot.number) for segment in schedule.segments() for shot in segment.shots)
    assert made == Counter((model, number) for model in range(3) for number in range(1, 24))
    for block in range(len(schedule.orders)):
        shots = {segment.shots for segment in schedule.segments() if segment.block == block}
        assert len(shots) == 1


def test_the_same_arguments_give_the_same_schedule_and_another_seed_another() -> None:
    builtin = read_prompts("builtin")
    assert make_schedule(40, 3, 1, builtin) == make_schedule(40, 3, 1, builtin)
    other = make_schedule(40, 3, 2, builtin)
    assert other.orders != make_schedule(40, 3, 1, builtin).orders
    assert not {shot.seed for shot in other.shots} & {shot.seed for shot in make_schedule(40, 3, 1, builtin).shots}


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 2), (10, 2), (20, 4), (50, 10), (100, 10), (1000, 10)])
def test_a_block_has_ten_pictures_or_leaves_five_blocks(count: int, size: int) -> None:
    assert default_block(count) == size


def test_prompts_of_ones_own_keep_their_order_and_begin_again_with_other_seeds() -> None:
    shots = make_schedule(8, 2, 0, OWN).shots
    assert [shot.text for shot in shots] == [f"prompt {number % 6}" for number in range(8)]
    assert len({shot.seed for shot in shots}) == 8


def test_built_in_prompts_take_the_groups_in_turn() -> None:
    shots = make_schedule(16, 2, 0, read_prompts("builtin")).shots
    assert set(Counter(shot.group for shot in shots).values()) == {2}
    assert len({shot.text for shot in shots}) == 16


def test_a_workflow_without_a_place_for_prompts_or_seeds() -> None:
    (shot, *_) = make_schedule(4, 2, 0, (), seeds=True).shots
    assert shot.text is None and shot.seed is not None
    assert make_schedule(4, 2, 0, OWN, seeds=False).shots[0].seed is None
