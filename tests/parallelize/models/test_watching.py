"""Graphs run under watch: which operators draw random numbers, and where two batches part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from parallelize.models.watching import Recorded, first_apart, first_of_other_rank, may_be_random, random_operators

aten = torch.ops.aten
Step = Callable[[fx.Graph, fx.Node], Any]


def graph_of(build: Step) -> fx.GraphModule:
    """A graph of one input x and what is built on it."""
    graph = fx.Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return fx.GraphModule(torch.nn.Module(), graph)


def call(operator: Any, *more: Any, **named: Any) -> Step:
    return lambda graph, x: graph.call_function(operator, (x, *more), named)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (call(aten.dropout.default, 0.1, True), True),
        (call(aten.dropout.default, 0.1, False), False),
        (call(aten.feature_dropout.default, 0.1, train=True), True),
        (call(aten.alpha_dropout.default, 0.1, False), False),
        (call(aten.alpha_dropout.default, 0.1, True), True),
        (call(aten.native_dropout.default, 0.5, False), False),
        (call(aten.native_dropout.default, 0.5, None), True),
        (call(aten.rrelu.default), False),
        (call(aten.rrelu.default, 0.1, 0.3, True), True),
        (call(aten.rand_like.default), True),
        (call(aten.relu.default), False),
        (lambda g, x: g.call_function(aten.scaled_dot_product_attention.default, (x, x, x)), False),
        (lambda g, x: g.call_function(aten.scaled_dot_product_attention.default, (x, x, x, None, 0.2)), True),
        (lambda g, x: g.call_function(aten.scaled_dot_product_attention.default, (x, x, x), {"dropout_p": 0.2}), True),
        (lambda g, x: g.call_function(torch.relu, (x,)), False),
    ],
)
def test_an_operator_may_be_random_unless_it_is_dropout_that_is_off(step: Step, expected: bool) -> None:
    *_, node, _ = graph_of(step).graph.nodes
    assert may_be_random(node) is expected


def noise(graph: fx.Graph, x: fx.Node) -> fx.Node:
    return graph.call_function(aten.rand_like.default, (x,))


def found(build: Step) -> list[str]:
    module = graph_of(build)
    state = torch.random.get_rng_state()
    names = [node.name for node in random_operators(module, (torch.ones(2, 3),))]
    assert torch.equal(torch.random.get_rng_state(), state)
    return names


def test_random_numbers_count_where_an_output_depends_on_them() -> None:
    assert found(lambda g, x: g.call_function(aten.add.Tensor, (x, noise(g, x)))) == ["rand_like_default"]
    assert found(lambda g, x: (noise(g, x), x)[1]) == []
    assert found(lambda g, x: g.call_function(aten.mul.Tensor, (noise(g, x), 0.0))) == []
    assert found(call(aten.dropout.default, 0.0, True)) == []
    assert found(call(aten.relu.default)) == []


def test_where_the_graph_does_not_run_on_other_numbers_they_are_taken_to_count() -> None:
    def index(graph: fx.Graph, x: fx.Node) -> fx.Node:
        drawn = graph.call_function(aten.randint_like.low_dtype, (x, 7, 9))
        table = graph.call_function(aten.new_zeros.default, (x, (9, 2)))
        long = graph.call_function(aten._to_copy.default, (drawn,), {"dtype": torch.int64})
        kept = graph.call_function(aten.sub.Tensor, (long, 7))
        return graph.call_function(aten.embedding.default, (table, kept))

    assert found(index) == ["randint_like_low_dtype"]


def test_every_value_of_a_run_is_kept() -> None:
    module = graph_of(call(aten.relu.default))
    values = Recorded.run_on(module, (torch.tensor([-1.0, 1.0]),))
    assert {node.name: value.tolist() for node, value in values.items() if node.op == "call_function"} == {
        "relu_default": [0.0, 1.0]
    }


def centred(graph: fx.Graph, x: fx.Node) -> fx.Node:
    """relu(x), its mean over samples, and the difference, transposed."""
    relu = graph.call_function(aten.relu.default, (x,))
    mean = graph.call_function(aten.mean.dim, (relu, [0], True))
    turned = graph.call_function(aten.t.default, (relu,))
    return graph.call_function(aten.sub.Tensor, (turned, graph.call_function(aten.t.default, (mean,))))


def test_the_first_operator_in_which_the_same_samples_differ_is_found() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    module = graph_of(centred)
    parts, sizes = (slice(0, 4), slice(0, 4)), (6, 4)
    node = first_apart(module, (x,), (x[:4],), parts, sizes, 1e-6)
    assert node is not None
    assert node.name == "mean_dim"
    alone = graph_of(call(aten.relu.default))
    assert first_apart(alone, (x,), (x[:4],), parts, sizes, 1e-6) is None
    assert first_apart(alone, (x,), (x[:4] + 1,), parts, sizes, 1e-6) is not None
    assert first_apart(alone, (x,), (x[2:],), (slice(2, 6), slice(0, 4)), sizes, 1e-6) is None


def test_the_first_operator_of_another_rank_is_found() -> None:
    module = graph_of(lambda g, x: g.call_function(aten.relu.default, (g.call_function(aten.squeeze.default, (x,)),)))
    node = first_of_other_rank(module, (torch.ones(2, 3),), (torch.ones(1, 3),))
    assert node is not None
    assert node.name == "squeeze_default"
    assert first_of_other_rank(module, (torch.ones(2, 3),), (torch.ones(4, 3),)) is None
