"""One process alone measures what it is asked for, when it is asked."""

from __future__ import annotations

from parallelize.machine.ranks import ALONE


def test_alone_nothing_is_measured_before_it_is_asked_for_and_values_come_in_order() -> None:
    seen: list[int] = []

    def measure(item: int) -> int:
        seen.append(item)
        return item * item

    values = ALONE.spread("squares", measure)([3, 1, 2])
    assert seen == []
    assert next(values) == 9
    assert seen == [3]
    assert list(values) == [1, 4]


def test_alone_there_is_nobody_to_serve_to_dismiss_or_to_be_compared_with() -> None:
    def identity() -> str:
        raise AssertionError

    ALONE.serve()
    ALONE.dismiss()
    ALONE.require_same(identity)
    assert (ALONE.rank, ALONE.size, ALONE.local) == (0, 1, None)


def test_alone_what_is_computed_together_is_computed() -> None:
    with ALONE.together():
        done = True
    assert done
