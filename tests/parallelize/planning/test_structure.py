"""Schedules without data: equal groups, of what fuses only."""

from __future__ import annotations

import pytest
import torch

from parallelize.planning.structure import structural_plan
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.plan import Plan
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph
from tests.parallelize.planning.cases import mlps, on_vectors, unlike
from tests.parallelize.small_models import Towers, capture_vectors


def graph_of(module: torch.fx.GraphModule) -> StackGraph:
    return stack_graph(find_stacks(module).stacks)


def groups(plan: Plan) -> list[list[int]]:
    """How many chains each level of each stack has."""
    return [[len(level.chains) for level in part.levels] for part in plan.stacks]


@pytest.mark.parametrize(
    ("depth", "sizes"),
    [(1, [6]), (2, [3, 3]), (3, [2, 2, 2]), (4, [1, 1, 2, 2]), (5, [1, 1, 1, 1, 2]), (None, [2] * 3)],
)
def test_groups_are_as_equal_as_can_be_the_larger_ones_last(depth: int | None, sizes: list[int]) -> None:
    module = mlps(6).module
    assert groups(structural_plan(module, graph_of(module), depth)) == [sizes]


def test_only_what_fuses_is_put_side_by_side() -> None:
    plan = structural_plan(unlike().module, graph_of(unlike().module), None)
    assert groups(plan) == [[2, 1, 1]]
    _, (_, record) = run_passes(unlike().module, [ApplyPlan(plan), FuseWidth()])
    assert len(record.matches) == 1
    assert record.skipped == ()


def test_a_depth_that_needs_groups_that_do_not_fuse_is_refused_with_the_reason() -> None:
    with pytest.raises(ParallelizeError, match=r"that fuse is 2 blocks deep, the shallowest has 3 \("):
        structural_plan(unlike().module, graph_of(unlike().module), 2)


def test_towers_are_each_as_deep_as_the_whole_may_be() -> None:
    torch.manual_seed(0)
    module = capture_vectors(Towers((4, 2)), 6).module
    assert groups(structural_plan(module, graph_of(module), 2)) == [[2, 2], [1, 1]]
    assert groups(structural_plan(module, graph_of(module), 1)) == [[4], [2]]


def test_a_search_leaves_groups_that_do_not_fuse_as_deep_as_serial_and_says_so() -> None:
    planner = on_vectors(unlike(), refit="none")
    found = planner.at_depth(3)
    assert [name for name, _ in found.unfused] == [planner.stacks[0].name]
    for first, last in ((1, 2), (2, 3), (0, 3)):
        assert "deletion" in planner.groups._main(0, first, last).name
    assert planner.groups._main(0, 0, 1).name == "sublayer"
