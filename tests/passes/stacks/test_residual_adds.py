"""Residual adds: the state, the nodes of the term, adds to one state joined, and the sums that are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from passes.graph.dataflow import positions
from passes.graph.operators import LINEAR
from passes.stacks.residual_adds import ResidualAdd, float_adds, is_difference, residual_adds
from tests.passes.drawn import calls, drawn, inputs_of, result
from tests.passes.models import WIDTH, Function, normal, tokens
from tests.passes.stacks.found import named_linears, stacks_of

aten = torch.ops.aten
A, B = nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, WIDTH).double()


def _adds(graph: fx.GraphModule) -> list[ResidualAdd]:
    return residual_adds(graph.graph, positions(graph.graph))


def test_the_nodes_between_the_state_and_the_sum_are_the_term() -> None:
    graph = drawn(lambda x: torch.tanh(A(x)) + x, tokens())
    (add,) = _adds(graph)
    assert [add.skip] == inputs_of(graph)
    assert list(add.region) == calls(graph, LINEAR, aten.tanh.default)
    assert (add.output, add.total, add.result) == (add.region[-1], add.node, add.node)
    assert add.has_weights
    assert not add.is_activation


def test_adds_to_one_state_are_joined_where_nothing_reads_between_them() -> None:
    (joined,) = _adds(drawn(lambda x: (x + A(x)) + torch.tanh(B(x)), tokens()))
    assert len(joined.joins) == 1
    assert [node.target for node in joined.outputs] == [LINEAR, aten.tanh.default]

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        first = x + A(x)
        return first + torch.tanh(B(x)), first.sin()

    (alone,) = _adds(drawn(forward, tokens()))
    assert alone.joins == ()


def test_a_term_reads_a_parameter_be_it_transposed_or_it_has_no_weights() -> None:
    weight = nn.Parameter(normal(WIDTH, WIDTH))
    with_weights = {
        "transposed": lambda x: x + x @ weight.t(),
        "a gain": lambda x: x + torch.tanh(x * weight[0]),
        "scaled, with a product": lambda x: 0.5 * x + A(x),
    }
    without = {
        "rolled": lambda x: x + x.roll(1, 1),
        "rotated": lambda x: x * weight[0] + x.flip(-1) * weight[1],
        "ones": lambda x: x + x @ torch.ones(WIDTH, WIDTH, dtype=x.dtype),
    }
    assert [name for name, f in with_weights.items() if not _adds(drawn(f, tokens()))[0].has_weights] == []
    assert [name for name, f in without.items() if _adds(drawn(f, tokens()))[0].has_weights] == []


def test_a_function_of_each_element_is_an_activation() -> None:
    (add,) = _adds(drawn(lambda x: x + 0.04 * x**3, tokens()))
    assert add.is_activation


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda x: x + x, id="twice the same"),
        pytest.param(lambda x: x + 1.0, id="a number"),
        pytest.param(lambda x: A(x) + B(x), id="two paths"),
        pytest.param(lambda x: x + torch.zeros_like(x), id="its shape alone"),
        pytest.param(lambda x: x[:, :1] + x, id="a part of the state"),
        pytest.param(lambda x: x.argsort(-1) + x.argsort(-1).flip(-1), id="integers"),
    ],
)
def test_a_sum_whose_operands_are_no_state_and_what_is_made_of_it_is_none(forward: Callable[[Tensor], Tensor]) -> None:
    assert [add for add in _adds(drawn(forward, tokens())) if add.has_weights or add.spelled is None] == []


def test_float_adds_have_one_operand_of_the_shape_of_the_sum() -> None:
    graph = drawn(lambda x, n: (x + x[:, :1], x[:1] + x[:, :1], n + n.flip(0)), tokens(), torch.arange(3))
    assert [node for node, _ in float_adds(graph.graph)] == calls(graph, aten.add.Tensor)[:1]


def test_a_sum_in_another_spelling_is_one_of_the_whole_and_none_of_its_parts() -> None:
    graph = drawn(lambda x: (x - A(x)) - torch.tanh(B(x)), tokens())
    (add,) = _adds(graph)
    assert add.node is result(graph)
    assert add.spelled is not None
    assert add.spelled.sums == (calls(graph, aten.sub.Tensor)[0],)
    (step,) = _adds(drawn(lambda x: x + 0.3 * (A(x) - x), tokens()))
    assert step.node.target == aten.add.Tensor


def test_what_terms_have_added_is_a_difference_and_no_term() -> None:
    def forward(x: Tensor) -> Tensor:
        first = x + A(x)
        return (first + B(first)) - x

    graph = drawn(forward, tokens())
    adds = _adds(graph)
    assert [add.node.target for add in adds] == [aten.add.Tensor] * 2
    (x,), ends = inputs_of(graph), {add.total: add.skip for add in adds}
    assert is_difference(result(graph), x, ends)
    assert not is_difference(result(graph), adds[0].total, ends)
    assert not is_difference(adds[1].node, x, ends)


def test_a_sum_that_is_read_between_two_adds_to_one_state_makes_them_no_term() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        first = x + self.a(x)
        return first + torch.tanh(self.b(x)), torch.exp(first)

    found = stacks_of(Function(forward, **named_linears(2)))
    assert [len(stack.terms) for stack in found.stacks] == [1]
    skip = "linear (linear layer from 8 to 8), so no term leaves the state as it is"
    assert [refusal.node for refusal in found.refused] == ["add_1"]
    assert found.refused[0].reason == f"the skip path of add_1 is not the state inputs_0 but {skip}"
