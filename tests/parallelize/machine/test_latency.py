"""Latency: candidates are timed in turn, by a clock that these tests hold in their hands."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
import pytest

from parallelize.machine import latency
from parallelize.machine.latency import LEAST, Call, Latency, Length, Moment, host_clock, in_turn


@pytest.fixture
def collecting() -> Iterator[None]:
    """Whatever a test does to the garbage collector is undone."""
    before = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if before else gc.disable)()


class Clock:
    """Time that passes only where a call says so."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def call(self, name: str, milliseconds: list[float]) -> Callable[[], None]:
        durations = iter(milliseconds)

        def run() -> None:
            self.calls.append(name)
            self.now += round(next(durations) * 1e6)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: clock.now)
    return clock


def in_rounds(candidates: dict[str, Call], rounds: int, warm_up: int) -> dict[str, Latency]:
    """Each candidate once in each round."""
    length = Length(calls=rounds, warm_up_calls=warm_up)
    moments = in_turn({name: (call, host_clock) for name, call in candidates.items()}, length)
    return {name: Latency.of(each) for name, each in moments.items()}


def test_candidates_are_warmed_up_and_then_called_in_turn_in_every_round() -> None:
    calls: list[str] = []
    in_rounds({name: lambda name=name: calls.append(name) for name in "AB"}, rounds=3, warm_up=2)
    assert calls == ["A", "A", "B", "B"] + ["A", "B"] * 3


def test_rounds_have_a_warm_up() -> None:
    calls: list[str] = []
    measured = latency.in_rounds({"A": (lambda: calls.append("A"), host_clock)}, rounds=3)
    assert (measured["A"].rounds, len(calls)) == (3, 3 + latency.WARM_UP)


def test_rounds_of_warm_up_are_run_and_not_counted(clock: Clock) -> None:
    measured = in_rounds({"A": clock.call("A", [500, 500, 1, 2, 3])}, rounds=3, warm_up=2)
    assert clock.calls == ["A"] * 5
    assert measured["A"].rounds == 3
    assert measured["A"].median == 2
    assert measured["A"].p99 < 3.001


def test_each_candidate_gets_its_own_times_in_milliseconds(clock: Clock) -> None:
    measured = in_rounds({"A": clock.call("A", [4, 4]), "B": clock.call("B", [0.5, 0.5])}, rounds=2, warm_up=0)
    assert measured == {"A": Latency(4, 4, 4, 2), "B": Latency(0.5, 0.5, 0.5, 2)}


def test_median_and_percentiles_are_those_of_the_counted_rounds(clock: Clock) -> None:
    times = [float(value) for value in np.random.default_rng(0).permutation(np.arange(1, 102))]
    measured = in_rounds({"A": clock.call("A", times)}, rounds=101, warm_up=0)["A"]
    assert (measured.median, measured.p90, measured.p99) == pytest.approx((51, 91, 100))


def test_the_garbage_collector_rests_while_time_is_taken_and_runs_again_afterwards(collecting: None) -> None:
    states: list[bool] = []
    in_rounds({"A": lambda: states.append(gc.isenabled())}, rounds=2, warm_up=1)
    assert states == [False] * 3
    assert gc.isenabled()


def test_the_garbage_collector_runs_again_after_a_candidate_that_fails(collecting: None) -> None:
    def fail() -> None:
        raise RuntimeError("broken model")

    with pytest.raises(RuntimeError, match="broken model"):
        in_rounds({"A": fail}, rounds=2, warm_up=0)
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off(collecting: None) -> None:
    gc.disable()
    in_rounds({"A": lambda: None}, rounds=1, warm_up=0)
    assert not gc.isenabled()


def test_no_candidates_have_no_times() -> None:
    assert in_turn({}, Length()) == {}


def test_each_candidate_is_timed_for_as_many_seconds_in_turns(clock: Clock) -> None:
    calls = {"A": clock.call("A", [10.0] * 1000), "B": clock.call("B", [40.0] * 1000)}
    found = in_turn({name: (call, host_clock) for name, call in calls.items()}, Length(seconds=1.2, warm_up=0.1))
    assert {name: len(moments) for name, moments in found.items()} == {"A": 120, "B": 30}
    assert found["A"][0] == Moment(10.0)
    turns = [(name, len(list(group))) for name, group in groupby(clock.calls)]
    assert turns[:62] == [("A", 10), ("B", 3)] + [("A", 3), ("B", 1)] * 30
    assert {name for name, _ in turns[62:]} == {"A"}


def test_slow_candidates_are_called_often_enough(clock: Clock) -> None:
    found = in_turn({"A": (clock.call("A", [5000.0] * 100), host_clock)}, Length(seconds=1, warm_up=0))
    assert len(found["A"]) == LEAST


def test_a_clock_of_its_own_tells_a_candidates_time() -> None:
    moment = Moment(host=3.0, enqueue=1.0, gpu=2.0)
    found = in_turn({"A": (lambda: None, lambda call: moment)}, Length(seconds=0.03, warm_up=0))
    assert found["A"] == [moment] * 10
