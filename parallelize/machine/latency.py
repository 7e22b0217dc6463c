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
WARM_UP = 20  # calls before the rounds

Call = Callable[[], object]


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


@dataclass(frozen=True)
class Length:
    """How long each candidate is measured: until it has made so many calls and has run for so many seconds.

    Attributes:
        calls: that are counted at least.
        seconds: that are counted at least. A turn is SLICE of them or one call, whichever is longer.
        warm_up_calls: calls before that are not counted, at least.
        warm_up: seconds before that are not counted, at least.
    """

    calls: int = LEAST
    seconds: float = 0.0
    warm_up_calls: int = 1
    warm_up: float = 0.0


def in_turn(candidates: Mapping[str, tuple[Call, Clock]], length: Length) -> dict[str, list[Moment]]:
    """Time every candidate, each after its warm-up, in turns.

    Args:
        candidates: calls to time, each with what times it, by name.
        length: how long each is measured.
    """
    counted: dict[str, list[Moment]] = {name: [] for name in candidates}
    with _no_collection():
        for call, clock in candidates.values():
            _turn(call, clock, length.warm_up_calls, length.warm_up)
        spent = dict.fromkeys(candidates, 0.0)
        while waiting := [n for n in candidates if spent[n] < length.seconds * 1e3 or len(counted[n]) < length.calls]:
            for name in waiting:
                moments = _turn(*candidates[name], 1, min(SLICE, length.seconds))
                counted[name] += moments
                spent[name] += sum(moment.host for moment in moments)
    return counted


def _turn(call: Call, clock: Clock, calls: int, seconds: float) -> list[Moment]:
    """Call again and again, at least so often and for so many seconds."""
    moments: list[Moment] = []
    spent = 0.0
    while len(moments) < calls or spent < seconds * 1e3:
        moments.append(clock(call))
        spent += moments[-1].host
    return moments


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of one call over `rounds` rounds."""

    median: float
    p90: float
    p99: float
    rounds: int

    @classmethod
    def of(cls, moments: Sequence[Moment]) -> Latency:
        """Of the calls that were counted."""
        median, p90, p99 = percentiles([moment.host for moment in moments], (50, 90, 99))
        return cls(median, p90, p99, len(moments))


def in_rounds(candidates: Mapping[str, tuple[Call, Clock]], rounds: int) -> dict[str, Latency]:
    """Latency until the result is there, each candidate timed once in each round."""
    length = Length(calls=rounds, warm_up_calls=WARM_UP)
    return {name: Latency.of(moments) for name, moments in in_turn(candidates, length).items()}


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
