"""Latency, measured in turn: A B C A B C ... in one process, so that a drift of the machine meets all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

SLICE = 0.03  # seconds of one candidate's turn
LEAST = 10  # iterations that are measured in any case

Call = Callable[[], object]


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of one call over `rounds` rounds."""

    median: float
    p90: float
    p99: float
    rounds: int


@dataclass(frozen=True)
class Moment:
    """Milliseconds of one call.

    Attributes:
        host: until the result is there.
        enqueue: until the call returned; None where that is the same.
        gpu: between events before and behind the call; None without a GPU.
    """

    host: float
    enqueue: float | None = None
    gpu: float | None = None


Clock = Callable[[Call], Moment]


def host_clock(call: Call) -> Moment:
    """Time a call that returns when its result is there."""
    start = time.perf_counter_ns()
    call()
    return Moment((time.perf_counter_ns() - start) / 1e6)


def in_turn(candidates: Mapping[str, Call], rounds: int = 200, warm_up: int = 20) -> dict[str, Latency]:
    """Time every candidate once in each round.

    Args:
        candidates: calls to time, by name.
        rounds: how often each is timed.
        warm_up: rounds before that are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with _no_collection():
        for number in range(warm_up + rounds):
            for name, call in candidates.items():
                moment = host_clock(call)
                if number >= warm_up:
                    times[name].append(moment.host)
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> Latency:
    median, p90, p99 = percentiles(values, (50, 90, 99))
    return Latency(median, p90, p99, len(values))


def in_turn_for(
    candidates: Mapping[str, tuple[Call, Clock]], seconds: float, warm_up: float = 0.2
) -> dict[str, list[Moment]]:
    """Time every candidate for as many seconds, in turns of SLICE seconds or one call.

    Args:
        candidates: calls to time, each with what times it, by name.
        seconds: measured of each; LEAST calls are in any case.
        warm_up: seconds of each before that are not counted.
    """
    counted: dict[str, list[Moment]] = {name: [] for name in candidates}
    with _no_collection():
        for call, clock in candidates.values():
            _turn(call, clock, warm_up)
        spent = dict.fromkeys(candidates, 0.0)
        while waiting := [n for n in candidates if spent[n] < seconds * 1e3 or len(counted[n]) < LEAST]:
            for name in waiting:
                moments = _turn(*candidates[name], min(SLICE, seconds))
                counted[name] += moments
                spent[name] += sum(moment.host for moment in moments)
    return counted


def _turn(call: Call, clock: Clock, seconds: float) -> list[Moment]:
    """Call again and again for so many seconds, and once at least."""
    moments = [clock(call)]
    spent = moments[0].host
    while spent < seconds * 1e3:
        moments.append(clock(call))
        spent += moments[-1].host
    return moments


def percentiles(values: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Percentiles of some numbers."""
    return [float(value) for value in np.percentile(values, shares)]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let the garbage collector rest."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
