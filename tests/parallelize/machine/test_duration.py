"""Times are read with or without a unit, and what is none is refused."""

from __future__ import annotations

import pytest

from parallelize.machine.duration import milliseconds
from passes.errors import ParallelizeError


@pytest.mark.parametrize("written", [1.5, "1.5", "1.5ms", " 1.5 ms ", "1500us", "1500 µs", "0.0015s", "1.5e-3 s"])
def test_a_plain_number_is_milliseconds_and_a_unit_may_follow_it(written: float | str) -> None:
    assert milliseconds(written, "latency") == pytest.approx(1.5)


@pytest.mark.parametrize(
    "written", [0, -1, "-1ms", "nan", "inf", "1.5 parsecs", "1.5 min", "ms", "", "fast", "1.5.2ms", "nan s", "1e400s"]
)
def test_what_is_no_time_above_zero_is_refused_as_it_was_written(written: float | str) -> None:
    with pytest.raises(ParallelizeError) as caught:
        milliseconds(written, "latency")
    assert str(caught.value) == f"The latency {str(written)!r} is not a time above zero."
    assert caught.value.hint == "Give a number with us, ms or s, such as 1.5ms; a plain number is milliseconds."
