"""Units on ranks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from passes.spread.assignment import assigned


def test_the_largest_come_first_and_each_goes_to_the_rank_that_has_least() -> None:
    found = assigned([3, 5, 4, 3], 2)
    assert found.owners == (1, 0, 1, 0)
    assert found.loads == (8, 7)
    assert (found.used, found.share) == (2, 8 / 15)


def test_more_ranks_than_units_leave_the_last_without_work() -> None:
    found = assigned([1, 1], 4)
    assert found.owners == (0, 1)
    assert found.used == 2


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 3))
def test_no_rank_has_more_than_graham_allows_of_the_best_assignment(works: list[int], size: int) -> None:
    best = min(
        max(sum(work for work, owner in zip(works, owners, strict=True) if owner == rank) for rank in range(size))
        for owners in itertools.product(range(size), repeat=len(works))
    )
    assert max(assigned(works, size).loads) <= (4 / 3 - 1 / (3 * size)) * best + 1e-9
