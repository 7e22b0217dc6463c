"""Branches of a sum: what only one summand needs, chains as one branch, and equal ones in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.branches import Branch, find_branches
from passes.fusion.sums import expand, find_roots
from passes.graph.dataflow import positions
from tests.passes.models import WIDTH, Function, Mlp, fixed_graph_of, randomised, tokens

aten = torch.ops.aten


def _graph(function: Callable[..., Tensor], *more: Tensor) -> fx.GraphModule:
    parts = {name: nn.Linear(WIDTH, WIDTH) for name in "abcd"} | {name: Mlp() for name in "mn"}
    return fixed_graph_of(randomised(Function(function, **parts)), tokens(), *more)


def _roots(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node, root in find_roots(graph).items() if node is root]


def _groups(function: Callable[..., Tensor], *more: Tensor) -> list[list[Branch]]:
    graph = _graph(function, *more)
    place = dict(positions(graph.graph))
    found = expand(graph, _roots(graph)[-1], place)
    return find_branches(list(found.terms), found.tree, place, found.states)


def _outputs(groups: Sequence[Sequence[Branch]]) -> list[list[list[str]]]:
    return [[[node.name for node in branch.outputs] for branch in group] for group in groups]


def test_equal_summands_form_a_group_and_the_state_is_part_of_none() -> None:
    ((first, second),) = _groups(lambda s, x: torch.exp(x) + s.m(torch.exp(x)) + s.n(torch.exp(x)))
    assert first.lines == second.lines
    assert [node.name for node in first.outputs] == ["linear_1"]
    assert {node.target for node in first.inner} == {
        aten.exp.default,
        aten.layer_norm.default,
        aten.linear.default,
        aten.gelu.default,
    }
    assert not first.inner & second.inner


def test_a_value_that_all_summands_read_is_part_of_none() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        state = torch.exp(x)
        return self.a(state) + self.b(state)

    for branch in _groups(forward)[0]:
        assert [node.target for node in branch.inner] == [aten.linear.default]


def test_branches_of_unlike_structure_are_alone() -> None:
    groups = _groups(lambda s, x: x + s.a(x) + s.m(x) + s.b(x))
    assert _outputs(groups) == [[["linear"], ["linear_3"]], [["linear_2"]]]


def test_terms_of_a_chain_are_one_branch_with_several_outputs() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        one, two = self.a(x), self.b(x)
        return x + one + self.c(x + one) + two + self.d(x + two)

    groups = _groups(forward)
    assert _outputs(groups) == [[["linear", "linear_2"], ["linear_1", "linear_3"]]]


def test_unlike_terms_that_share_a_value_may_still_fuse_one_by_one() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, (WIDTH,))
        return x + self.a(normed) + self.b(normed) + torch.tanh(self.c(x))

    assert [["linear"], ["linear_1"]] in _outputs(_groups(forward))


def test_branches_that_differ_in_what_they_read_form_a_group_after_those_that_do_not() -> None:
    groups = _groups(lambda s, x, y: x + s.a(x) + s.b(y), tokens(seed=2))
    assert _outputs(groups) == [[["linear"], ["linear_1"]]]
    groups = _groups(lambda s, x, y: x + s.a(x) + s.b(y) + s.c(x), tokens(seed=2))
    assert _outputs(groups) == [[["linear"], ["linear_2"]], [["linear_1"]]]


def test_summands_without_a_product_are_no_branches() -> None:
    assert _groups(lambda s, x: x + torch.exp(x) + torch.sin(x)) == []


def test_a_summand_that_something_else_reads_too_is_no_branch() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.a(x)
        return x + first + self.b(x) + self.c(x), first.exp()

    assert _outputs(_groups(forward)) == [[["linear_1"], ["linear_2"]]]
