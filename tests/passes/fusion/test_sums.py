"""A sum is a multiset: what collects, what cancels, and which values stay whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from passes.fusion.sums import Sum, expand, find_roots, operands
from passes.graph.dataflow import positions
from tests.passes.models import WIDTH, Function, fixed_graph_of, randomised, tokens


def _graph(function: Callable[..., object], *more: Tensor) -> fx.GraphModule:
    parts = {name: nn.Linear(WIDTH, WIDTH) for name in "abcd"}
    model = randomised(Function(function, **parts))
    model.number = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    return fixed_graph_of(model, tokens(), *more)


def _roots(graph: fx.GraphModule) -> list[fx.Node]:
    return [node for node, root in find_roots(graph).items() if node is root]


def _sum(function: Callable[..., object], number: int = -1) -> Sum:
    """The last sum of a graph, or another."""
    graph = _graph(function)
    return expand(graph, _roots(graph)[number], dict(positions(graph.graph)))


def _terms(found: Sum) -> dict[str, float]:
    return {node.name.replace("inputs_0", "x"): factor for node, factor in found.terms.items()}


SPELLINGS: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "left to right": (lambda s, x: x + s.a(x) + s.b(x), {"x": 1, "linear": 1, "linear_1": 1}),
    "a tree": (lambda s, x: (s.a(x) + x) + (s.b(x) + s.c(x)), {"x": 1, "linear": 1, "linear_1": 1, "linear_2": 1}),
    "through a copy": (lambda s, x: x + (s.a(x) + s.b(x)).clone(), {"x": 1, "linear": 1, "linear_1": 1}),
    "one value twice": (lambda s, x: x + x + s.a(x), {"x": 2, "linear": 1}),
    "a difference": (lambda s, x: x - s.a(x), {"x": 1, "linear": -1}),
    "a difference the other way": (lambda s, x: torch.rsub(x, s.a(x), alpha=2), {"x": -2, "linear": 1}),
    "a negative": (lambda s, x: -s.a(x) + x, {"x": 1, "linear": -1}),
    "alpha": (lambda s, x: torch.add(x, s.a(x), alpha=0.5), {"x": 1, "linear": 0.5}),
    "alpha of a difference": (lambda s, x: torch.sub(x, s.a(x), alpha=0.5), {"x": 1, "linear": -0.5}),
    "numbers": (lambda s, x: 0.25 * (2 * x + s.a(x) / 4), {"x": 0.5, "linear": 0.0625}),
    "a stored number": (lambda s, x: x + s.number * s.a(x), {"x": 1, "linear": 0.5}),
    "what cancels": (lambda s, x: x + (s.a(x) - x), {"linear": 1}),
    "times zero": (lambda s, x: s.a(x) - x * 0, {"linear": 1}),
    "a mean": (lambda s, x: ((x + s.a(x)) + (x + s.b(x))) / 2, {"x": 1, "linear": 0.5, "linear_1": 0.5}),
    "thirds": (lambda s, x: (x + x + x + s.a(x)) / 3, {"x": 1, "linear": 1 / 3}),
    "weights": (lambda s, x: 0.3 * (x + s.a(x)) + 0.7 * (s.b(x) + x), {"x": 1, "linear": 0.3, "linear_1": 0.7}),
    "the sum of a stack": (lambda s, x: torch.stack([x, s.a(x), x]).sum(0), {"x": 2, "linear": 1}),
    "the mean of a stack": (lambda s, x: torch.stack([x, s.a(x)], 1).mean(1), {"x": 0.5, "linear": 0.5}),
    "the mean of a stack from the right": (
        lambda s, x: torch.stack([x, s.a(x)], -1).mean(-1),
        {"x": 0.5, "linear": 0.5},
    ),
}


@pytest.mark.parametrize(("function", "terms"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_of_a_sum_is_a_multiset(function: Callable[..., Tensor], terms: dict[str, float]) -> None:
    found = _sum(function)
    assert _terms(found) == pytest.approx(terms, rel=1e-15)
    assert found.root in found.tree


NO_STEPS = {
    "a number that is added": lambda s, x: s.a(x) + 1.0,
    "a broadcast": lambda s, x: s.a(x) + x[:, :1],
    "integers": lambda s, x: s.a(x).long() + x.long(),
    "another dtype": lambda s, x: s.a(x) + x.float(),
    "a vector of factors": lambda s, x: s.a(x) * s.a.bias,
    "a number that is divided": lambda s, x: s.a(x).reciprocal(),
    "an infinite factor": lambda s, x: s.a(x) * float("inf"),
    "a sum along a dimension of its own": lambda s, x: torch.stack([x, s.a(x)]).sum(1),
    "a sum that keeps the dimension": lambda s, x: torch.stack([x, s.a(x)]).sum(0, keepdim=True),
    "a sum of no stack": lambda s, x: s.a(x).sum(0),
}


@pytest.mark.parametrize("function", NO_STEPS.values(), ids=NO_STEPS.keys())
def test_an_operator_with_another_meaning_is_no_step(function: Callable[..., Tensor]) -> None:
    graph = _graph(function)
    assert not any(operands(graph, node) for node in graph.graph.nodes)


def test_a_serial_chain_is_never_expanded() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        return first + self.b(first)

    found = _sum(forward)
    assert _terms(found) == {"add": 1, "linear_1": 1}
    assert [node.name for node in found.states] == ["add"]


def test_levels_below_one_another_keep_their_states_also_where_a_skip_leads_past_them() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x) + self.b(x)
        return first + self.c(first) + self.d(first) + x

    found = _sum(forward)
    assert _terms(found) == {"x": 1, "add_1": 1, "linear_2": 1, "linear_3": 1}
    assert "add_1" in {node.name for node in found.states}


def test_a_mean_of_states_of_one_chain_keeps_the_states() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        first = x + self.a(x)
        second = first + self.b(first)
        return (x + first + second) / 4

    assert _terms(_sum(forward)) == {"x": 0.25, "add": 0.5, "linear_1": 0.25}


def _two_terms(first: nn.Module, second: nn.Module, x: Tensor) -> Tensor:
    state = x + first(x)
    result: Tensor = state + second(state)
    return result


BRANCHES = {
    "the first as it is": lambda s, x: _two_terms(s.a, s.b, x) + (_two_terms(s.c, s.d, x) - x),
    "the last as it is": lambda s, x: (_two_terms(s.a, s.b, x) - x) + _two_terms(s.c, s.d, x),
    "x behind": lambda s, x: _two_terms(s.a, s.b, x) + _two_terms(s.c, s.d, x) - x,
    "all are differences": lambda s, x: x + (_two_terms(s.a, s.b, x) - x) + (_two_terms(s.c, s.d, x) - x),
    "negative differences": lambda s, x: x - (x - _two_terms(s.a, s.b, x)) - (x - _two_terms(s.c, s.d, x)),
    "copies of differences": lambda s, x: (
        x + (_two_terms(s.a, s.b, x) - x).clone() + (_two_terms(s.c, s.d, x).contiguous() - x)
    ),
    "a stack": lambda s, x: torch.stack([_two_terms(s.a, s.b, x), _two_terms(s.c, s.d, x), -x]).sum(0),
}


@pytest.mark.parametrize("function", BRANCHES.values(), ids=BRANCHES.keys())
def test_private_states_of_branches_are_expanded_so_that_the_common_state_collects(
    function: Callable[..., Tensor],
) -> None:
    assert _terms(_sum(function)) == {"x": 1, "linear": 1, "linear_1": 1, "linear_2": 1, "linear_3": 1}


def test_a_weighted_mean_of_branches_collects_the_state() -> None:
    found = _sum(lambda s, x: 0.3 * _two_terms(s.a, s.b, x) + 0.7 * _two_terms(s.c, s.d, x))
    assert _terms(found) == {"x": 1, "linear": 0.3, "linear_1": 0.3, "linear_2": 0.7, "linear_3": 0.7}


def test_a_branch_beside_a_single_term_is_expanded_too() -> None:
    found = _sum(lambda s, x: _two_terms(s.a, s.b, x) + s.c(x))
    assert _terms(found) == {"x": 1, "linear": 1, "linear_1": 1, "linear_2": 1}


def test_a_step_that_two_sums_read_is_a_sum_of_its_own() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        both = self.a(x) + self.b(x)
        return both + self.c(x), both - x

    graph = _graph(forward)
    assert [node.name for node in _roots(graph)] == ["add", "add_1", "sub"]


def test_a_difference_of_a_value_and_itself_has_no_terms() -> None:
    assert _terms(_sum(lambda s, x: x - x)) == {}
