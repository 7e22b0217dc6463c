"""The frontier: schedules that no other one beats in error, parameters and latency together.

Depth stands for latency where that was not measured, and does not count where it was. What is predicted never counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from typing import Any

from parallelize.models.network import Network
from passes.plan import Plan


@dataclass(frozen=True)
class Point:
    """One measured schedule.

    Attributes:
        network: its name is "serial", "rewrite" or "deletion".
        error: of the metric, on held-out samples that did not fit it.
        interval: 95 % interval of the error.
        latency: milliseconds at batch 1 on the chosen backend, None where it was not measured.
        predicted: milliseconds at batch 1 on a target that is not here, None where none was asked for.
    """

    network: Network
    error: float
    interval: tuple[float, float]
    latency: float | None = None
    predicted: float | None = None

    @property
    def depth_blocks(self) -> int:
        """Blocks on the critical path."""
        return self.network.depth_blocks

    @property
    def plan(self) -> Plan:
        """The schedule and strength of its refit."""
        assert self.network.plan is not None
        return self.network.plan

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the plan as its JSON."""
        return {
            "kind": self.network.name,
            "depth_blocks": self.depth_blocks,
            "parameters": self.network.parameters,
            "error": self.error,
            "error_interval": list(self.interval),
            "latency_ms": self.latency,
            "predicted_ms": self.predicted,
            "plan": json.loads(self.plan.to_json()),
        }

    def beats(self, other: Point) -> bool:
        """Whether this schedule is at least as good in everything and better in something."""
        pairs: list[tuple[float, float]] = [
            (self.error, other.error),
            (self.network.parameters, other.network.parameters),
        ]
        if self.latency is not None and other.latency is not None:
            pairs.append((self.latency, other.latency))
        else:
            pairs.append((self.depth_blocks, other.depth_blocks))
        return all(ours <= theirs for ours, theirs in pairs) and any(ours < theirs for ours, theirs in pairs)


def frontier(points: Iterable[Point]) -> tuple[Point, ...]:
    """The points that no other one beats, deepest first; one whose error is NaN is no schedule to choose."""
    every = [point for point in points if not isnan(point.error)]
    kept = [point for point in every if not any(other.beats(point) for other in every)]
    return tuple(sorted(kept, key=lambda point: (-point.depth_blocks, point.error)))


def by_depth(points: Iterable[Point]) -> tuple[Point, ...]:
    """The best point of each depth, deepest first, with those left out that a shallower one is as good as."""
    best: dict[int, Point] = {}
    for point in points:
        if isnan(point.error):
            continue
        depth = point.depth_blocks
        if depth not in best or point.error < best[depth].error:
            best[depth] = point
    kept: list[Point] = []
    for depth in sorted(best):
        if not kept or best[depth].error < kept[-1].error:
            kept.append(best[depth])
    return tuple(reversed(kept))
