"""Options that no search can have are refused before it has measured for minutes."""

from __future__ import annotations

from typing import Any

import pytest

from parallelize.planning.options import DeviceOptions, PlannerOptions, SearchOptions
from passes.errors import ParallelizeError


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"refit": "strong"}, "There is no refit 'strong'."),
        ({"time_limit": -1}, "A search cannot take -1 seconds."),
        ({"time_limit": float("nan")}, "A search cannot take nan seconds."),
        ({"refine": -1}, "A search cannot measure -1 neighbours."),
        ({"longest_group": 0}, "No group has 0 blocks."),
    ],
)
def test_options_that_no_search_can_have_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        PlannerOptions(**option)
    assert str(caught.value) == message
    assert caught.value.hint


def test_any_time_and_no_time_at_all_are_limits() -> None:
    for limit in (None, 0, 0.5, float("inf")):
        assert SearchOptions(time_limit=limit).time_limit == limit
    assert PlannerOptions(longest_group=1, refine=0, refit="none").longest_group == 1


def test_memory_is_asked_for_in_bytes_or_words() -> None:
    assert DeviceOptions().buffer_bytes == 2**31
    assert DeviceOptions(buffer="512MiB").buffer_bytes == DeviceOptions(buffer=2**29).buffer_bytes == 2**29
    with pytest.raises(ParallelizeError, match="'1MiB' is too little memory") as caught:
        _ = DeviceOptions(buffer="1MiB").buffer_bytes
    assert caught.value.hint == "Give at least 4MiB."
