"""A group of equal branches: node by node for the emitter, by name for a report."""

from __future__ import annotations

from torch import fx

from passes.fusion.branches import Branch, find_branches
from passes.fusion.emitter import Emitter
from passes.fusion.groups import aligned, described, outputs_of, refused
from passes.fusion.layout import CannotLiftError
from passes.graph.dataflow import positions
from passes.runner import Skip
from tests.passes.drawn import drawn, returned
from tests.passes.models import Mlp, randomised, tokens

A, B = randomised(Mlp(), 1), randomised(Mlp(), 2)


def _group() -> tuple[fx.GraphModule, list[Branch]]:
    graph = drawn(lambda x: (A(x), B(x)), tokens())
    outputs = returned(graph)
    (group,) = find_branches(outputs, {graph.graph.output_node()}, positions(graph.graph))
    return graph, group


def test_branches_correspond_node_by_node() -> None:
    _, group = _group()
    branches = aligned(group)
    assert len(branches) == 2
    for first, second in zip(*branches.lists, strict=True):
        assert first.target == second.target or first.op == "get_attr"
    assert branches.inner == group[0].inner | group[1].inner
    assert branches.tapped == frozenset()


def test_factors_are_kept_where_one_is_not_one() -> None:
    _, group = _group()
    (first,), (second,) = (branch.outputs for branch in group)
    assert aligned(group, {first: 1.0, second: 1.0}).factors == ()
    assert aligned(group, {second: 0.5}).factors_of(first) == (1.0, 0.5)
    assert aligned(group).factors_of(first) == (1.0, 1.0)
    assert aligned(group, tapped=[first]).tapped == {first}


def test_a_group_is_told_by_its_outputs_with_what_runs_in_each_branch() -> None:
    graph, group = _group()
    emitter = Emitter(graph, aligned(group), graph.graph.output_node(), {})
    assert described(group, emitter) == "2 x linear_1"
    emitter.apart[group[0].nodes[-2]] = CannotLiftError("no place")
    assert described(group, emitter) == f"2 x linear_1 ({group[0].nodes[-2].name} in each branch)"
    assert outputs_of([group]) == ("linear_1", "linear_3")
    assert refused(group, CannotLiftError("no place")) == [Skip("linear_1", "no place"), Skip("linear_3", "no place")]
