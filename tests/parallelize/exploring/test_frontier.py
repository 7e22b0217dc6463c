"""The frontier by its definition: nothing on it is beaten, and everything else is."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from math import nan

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from parallelize.exploring.frontier import Point, by_depth, frontier
from parallelize.models.network import Network
from parallelize.models.program import Program
from passes.plan import Plan, serial

PLAN = Plan((serial(4),), seed=5)


def _point(
    depth: int, error: float, parameters: int = 10, latency: float | None = None, kind: str = "rewrite"
) -> Point:
    network = Network(kind, _program(parameters), PLAN, 2 * depth, depth)
    return Point(network, error, (error - 0.5, error + 0.5), latency)


@cache
def _program(parameters: int) -> Program:
    """One that stores so many numbers."""
    graph = fx.Graph()
    graph.output(graph.get_attr("weight"))
    root = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(parameters))})
    return Program(fx.GraphModule(root, graph), (), (), "small")


POINTS = st.lists(
    st.builds(
        _point,
        st.integers(1, 4),
        st.integers(0, 4).map(float),
        st.integers(1, 3),
        st.none() | st.integers(1, 3).map(float),
    ),
    max_size=12,
)


def _is_beaten(point: Point, other: Point) -> bool:
    """By the definition: nowhere worse, somewhere better; by latency where both have one, else by depth."""
    timed = point.latency is not None and other.latency is not None
    ours, theirs = ([p.error, p.network.parameters, p.latency if timed else p.depth_blocks] for p in (point, other))
    return all(b <= a for a, b in zip(ours, theirs, strict=True)) and ours != theirs


@given(points=POINTS)
def test_the_frontier_is_what_no_other_point_beats(points: list[Point]) -> None:
    wanted = [point for point in points if not any(_is_beaten(point, other) for other in points)]
    found = frontier(points)
    assert sorted(map(id, found)) == sorted(map(id, wanted))
    assert bool(found) == bool(points)
    assert [(-p.depth_blocks, p.error) for p in found] == sorted((-p.depth_blocks, p.error) for p in found)


@given(points=POINTS)
def test_every_point_off_the_frontier_is_beaten_by_one_on_it(points: list[Point]) -> None:
    without = [point for point in points if point.latency is None]
    kept = frontier(without)
    for point in without:
        assert point in kept or any(_is_beaten(point, other) for other in kept)


@given(points=POINTS)
def test_by_depth_keeps_the_best_of_each_depth_that_no_shallower_one_is_as_good_as(points: list[Point]) -> None:
    wanted = {}
    for depth in {point.depth_blocks for point in points}:
        best = min(point.error for point in points if point.depth_blocks == depth)
        if all(point.error > best for point in points if point.depth_blocks < depth):
            wanted[depth] = best
    found = by_depth(points)
    assert {point.depth_blocks: point.error for point in found} == wanted
    assert [point.depth_blocks for point in found] == sorted(wanted, reverse=True)


@given(points=POINTS, place=st.integers(0, 12), depth=st.integers(1, 4))
def test_a_network_of_nan_changes_no_frontier(points: list[Point], place: int, depth: int) -> None:
    broken = [*points[:place], _point(depth, nan, 0), *points[place:]]
    assert frontier(broken) == frontier(points)
    assert by_depth(broken) == by_depth(points)


def test_equal_points_do_not_beat_each_other() -> None:
    one, two = _point(2, 1.0), _point(2, 1.0, kind="deletion")
    assert not one.beats(two)
    assert frontier([one, two]) == (one, two)


def test_latency_counts_only_where_both_were_measured() -> None:
    fast, slow, unknown = _point(2, 1.0, latency=1.0), _point(2, 1.0, latency=2.0), _point(2, 1.0)
    assert fast.beats(slow)
    assert not slow.beats(fast)
    assert not fast.beats(unknown)
    assert not unknown.beats(slow)


def test_depth_counts_only_where_latency_was_not_measured() -> None:
    serial, shallow = _point(4, 0.0, latency=1.0), _point(2, 0.5, latency=1.2)
    assert frontier([serial, shallow]) == (serial,)
    untimed = [replace(point, latency=None) for point in (serial, shallow)]
    assert frontier(untimed) == tuple(untimed)


def test_a_point_is_plain_values_with_its_plan() -> None:
    value = json.loads(json.dumps(_point(2, 1.0, latency=3.0).as_dict()))
    assert Plan.from_json(json.dumps(value.pop("plan"))) == PLAN
    assert value == {
        "kind": "rewrite",
        "depth_blocks": 2,
        "parameters": 10,
        "error": 1.0,
        "error_interval": [0.5, 1.5],
        "latency_ms": 3.0,
        "predicted_ms": None,
    }
