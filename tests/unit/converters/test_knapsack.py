"""The optimiser of budgets against every possible choice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.converters.budget.knapsack import Group, hull_steps, solve

Drawn = list[list[tuple[int, float]]]


def groups_of(drawn: Drawn) -> list[Group]:
    return [
        Group(np.array([cost for cost, _ in options], dtype=np.int64), np.array([value for _, value in options]))
        for options in drawn
    ]


def all_choices(drawn: Drawn) -> list[tuple[int, float]]:
    return [
        (sum(cost for cost, _ in choice), math.fsum(value for _, value in choice))
        for choice in itertools.product(*drawn)
    ]


OPTIONS = st.lists(
    st.tuples(st.integers(0, 60), st.floats(0, 100, allow_subnormal=False).map(lambda value: round(value, 3))),
    min_size=1,
    max_size=4,
)
ALIKE = st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), min_size=3, max_size=3).map(
    lambda values: list(zip((10, 18, 20), values, strict=True))
)
INSTANCES = st.one_of(st.lists(OPTIONS, min_size=1, max_size=6), st.lists(ALIKE, min_size=1, max_size=6))


@settings(max_examples=300, deadline=None)
@given(drawn=INSTANCES, part=st.floats(-0.05, 1.05))
def test_the_best_of_all_choices_is_found(drawn: Drawn, part: float) -> None:
    costs = [cost for cost, _ in all_choices(drawn)]
    limit = round(min(costs) + part * (max(costs) - min(costs)))
    affordable = [value for cost, value in all_choices(drawn) if cost <= limit]
    found = solve(groups_of(drawn), limit)
    if not affordable:
        assert found is None
        return
    assert found is not None
    taken = [options[index] for options, index in zip(drawn, found.chosen, strict=True)]
    assert found.cost == sum(cost for cost, _ in taken) <= limit
    assert found.value == pytest.approx(min(affordable), abs=1e-6)
    assert found.exact


@settings(max_examples=100, deadline=None)
@given(drawn=INSTANCES, part=st.floats(0, 1))
def test_with_too_few_states_the_bound_still_holds(drawn: Drawn, part: float) -> None:
    costs = [cost for cost, _ in all_choices(drawn)]
    limit = round(min(costs) + part * (max(costs) - min(costs)))
    best = min(value for cost, value in all_choices(drawn) if cost <= limit)
    found = solve(groups_of(drawn), limit, max_states=1)
    assert found is not None and found.cost <= limit
    assert found.bound - 1e-6 <= best <= found.value + 1e-6


@settings(max_examples=100, deadline=None)
@given(drawn=INSTANCES)
def test_every_beginning_of_the_curve_is_best_for_its_cost(drawn: Drawn) -> None:
    chosen, steps = hull_steps(groups_of(drawn))
    choices = all_choices(drawn)
    for step in [None, *steps]:
        if step is not None:
            chosen[step.group] = step.option
        cost = sum(options[index][0] for options, index in zip(drawn, chosen, strict=True))
        value = sum(options[index][1] for options, index in zip(drawn, chosen, strict=True))
        assert value <= min(other for price, other in choices if price <= cost) + 1e-6


@pytest.mark.parametrize("continuous", [False, True], ids=["few shapes", "all different"])
def test_a_model_of_1500_layers_is_solved_exactly(continuous: bool) -> None:
    """Errors over three decades; NVFP4, MXFP8, FP8 and BF16 in four shapes, or every layer of a size of its own."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(9_000_000, 40_000_000, 1500) if continuous else generator.choice([9, 27, 36, 37], 1500)
    worst = 10 ** generator.uniform(-6, -3, 1500)
    costs = [(size * np.array([9, 17, 16, 32]) * 1_000).astype(np.int64) for size in sizes]
    values = [error * np.array([1.0, 0.15, 0.1, 0.0]) * generator.uniform(0.5, 2, 4) for error in worst]
    groups = [Group(cost, value) for cost, value in zip(costs, values, strict=True)]
    found = solve(groups, int(sum(cost[0] for cost in costs) * 1.3))
    assert found is not None and found.exact
