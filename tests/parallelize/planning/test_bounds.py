"""Bounds of what groups cost: never above the truth where blocks do larger groups no less harm."""

from __future__ import annotations

import itertools
from math import inf

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallelize.planning.bounds import least_costs
from parallelize.planning.forms import Span


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 8), share=st.floats(0, 1))
def test_a_bound_is_never_above_the_cost_and_a_known_cost_is_itself(seed: int, count: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, count, generator=generator).double()
    costs: dict[Span, float] = {
        (i, j): float(weights[i : j + 1, i : j + 1].triu(1).sum())
        for i, j in itertools.combinations_with_replacement(range(count), 2)
    }
    known = {span: cost for span, cost in costs.items() if float(torch.rand((), generator=generator)) < share}
    least = least_costs(count, known, count)
    assert least.keys() == costs.keys()
    assert all(least[span] == cost for span, cost in known.items())
    assert all(least[span] <= cost + 1e-9 for span, cost in costs.items())


def test_nothing_known_is_nothing_at_least() -> None:
    assert set(least_costs(4, {}, 4).values()) == {0.0}


def test_a_group_costs_what_two_overlapping_ones_do_but_for_what_they_share() -> None:
    least = least_costs(3, {(0, 1): 1.0, (1, 2): 2.0}, 3)
    assert least[0, 2] == 3.0


def test_a_group_with_a_group_of_nan_outputs_in_it_is_left_to_the_last() -> None:
    least = least_costs(4, {(1, 2): inf}, 4)
    assert least[0, 2] == least[1, 3] == least[0, 3] == inf
    assert least[0, 1] == 0.0


def test_groups_are_no_longer_than_the_longest() -> None:
    assert max(last - first + 1 for first, last in least_costs(6, {}, 3)) == 3
