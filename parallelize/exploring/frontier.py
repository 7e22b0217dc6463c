"""The frontier: schedules that no other one beats in error, parameters and latency together.

Depth stands for latency where that was not measured, and does not count where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from typing import Any

from passes.plan import Plan


@dataclass(frozen=True)
class Point:
    """One measured schedule.

    Attributes:
        kind: "serial", "rewrite" or "deletion".
        plan: the schedule and strength of its refit.
        depth: blocks on the critical path.
        parameters: stored values.
        error: of the metric, on held-out samples that did not fit it.
        interval: 95 % interval of the error.
        latency: milliseconds at batch 1 on the chosen backend, None where it was not measured.
    """

    kind: str
    plan: Plan
    depth: int
    parameters: int
    error: float
    interval: tuple[float, float]
    latency: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the plan as its JSON."""
        return {
            "kind": self.kind,
            "depth_blocks": self.depth,
            "parameters": self.parameters,
            "error": self.error,
            "error_interval": list(self.interval),
            "latency_ms": self.latency,
            "plan": json.loads(self.plan.to_json()),
        }

    def beats(self, other: Point) -> bool:
        """Whether this schedule is at least as good in everything and better in something."""
        pairs: list[tuple[float, float]] = [(self.error, other.error), (self.parameters, other.parameters)]
        if self.latency is not None and other.latency is not None:
            pairs.append((self.latency, other.latency))
        else:
            pairs.append((self.depth, other.depth))
        return all(ours <= theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def frontier(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points that no other one beats, deepest first; one whose error is NaN is no schedule to choose."""
    every = [point for point in points if not isnan(point.error)]
    kept = [point for point in every if not any(other.beats(point) for other in every)]
    return tuple(sorted(kept, key=lambda point: (-point.depth, point.error)))


def by_depth(points: Iterable[Point]) -> tuple[Point, ...]:
    """The best point of each depth, deepest first, with those left out that a shallower one is as good as."""
    best: dict[int, Point] = {}
    for point in points:
        if isnan(point.error):
            continue
        if point.depth not in best or point.error < best[point.depth].error:
            best[point.depth] = point
    kept: list[Point] = []
    for depth in sorted(best):
        if not kept or best[depth].error < kept[-1].error:
            kept.append(best[depth])
    return tuple(reversed(kept))
