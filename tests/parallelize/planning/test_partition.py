"""The cheapest partition of blocks into groups, by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.planning.partition import Groups, best_partitions


def _splits(count: int) -> Iterator[Groups]:
    """Every way to cut blocks 0..count-1 into intervals."""
    for cuts in itertools.product([False, True], repeat=count - 1):
        edges = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), count]
        yield tuple((first, last - 1) for first, last in itertools.pairwise(edges))


@st.composite
def _costs(draw: st.DrawFn, most: int = 7) -> tuple[int, dict[tuple[int, int], float]]:
    """Costs of intervals, some of which cannot be a group; whole numbers make ties, -1 is better than serial."""
    count = draw(st.integers(1, most))
    intervals = [(i, j) for i in range(count) for j in range(i, count)]
    known = draw(st.lists(st.sampled_from(intervals), unique=True))
    return count, {interval: draw(st.integers(-1, 5) | st.floats(0, 10)) for interval in known}


@settings(deadline=None, max_examples=200)
@given(problem=_costs())
def test_the_best_partition_of_every_depth_is_that_of_brute_force(
    problem: tuple[int, dict[tuple[int, int], float]],
) -> None:
    count, costs = problem
    cheapest: dict[int, float] = {}
    for groups in _splits(count):
        if all(group in costs for group in groups):
            total = sum(costs[group] for group in groups)
            cheapest[len(groups)] = min(total, cheapest.get(len(groups), float("inf")))
    found = best_partitions(count, costs)
    assert found.keys() == cheapest.keys()
    for depth, (cost, groups) in found.items():
        assert groups in set(_splits(count))
        assert len(groups) == depth
        assert cost == pytest.approx(cheapest[depth])
        assert sum(costs[group] for group in groups) == pytest.approx(cost)


def test_a_group_that_costs_infinitely_much_is_taken_only_where_there_is_no_other() -> None:
    costs = {(0, 0): 0.0, (1, 1): 0.0, (2, 2): 0.0, (0, 1): float("inf"), (1, 2): 3.0, (0, 2): float("inf")}
    found = best_partitions(3, costs)
    assert found[2] == (3.0, ((0, 0), (1, 2)))
    assert found[1] == (float("inf"), ((0, 2),))
