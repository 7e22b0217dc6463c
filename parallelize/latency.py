"""Latency, measured in turn: A B C A B C ... in one process, so that a drift of the machine meets all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of one call over `rounds` rounds."""

    median: float
    p90: float
    p99: float
    rounds: int


def in_turn(candidates: Mapping[str, Callable[[], object]], rounds: int = 200, warm_up: int = 20) -> dict[str, Latency]:
    """Time every candidate once in each round.

    Args:
        candidates: calls to time, by name.
        rounds: how often each is timed.
        warm_up: rounds before that are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(warm_up + rounds):
            for name, call in candidates.items():
                start = time.perf_counter_ns()
                call()
                if number >= warm_up:
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> Latency:
    median, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Latency(median, p90, p99, len(values))
