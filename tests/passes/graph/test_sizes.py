"""Sizes: numbers as they are, and what is known only when the model runs as an expression."""

from __future__ import annotations

import sympy
import torch

from passes.graph.sizes import sizes
from passes.graph.view_nodes import sizes_of
from tests.passes.drawn import inputs_of
from tests.passes.models import Function, graph_of, normal


def test_a_shape_of_numbers_is_that_shape() -> None:
    assert sizes(torch.zeros(3, 1, 4)) == (3, 1, 4)
    assert sizes(torch.zeros(())) == ()


def test_free_sizes_are_expressions_that_can_be_compared_and_multiplied() -> None:
    graph = graph_of(Function(lambda _, x: (x.flatten(0, 1), torch.cat([x, x]))).eval(), normal(3, 4, 6))
    (batch, *rest) = sizes_of(inputs_of(graph)[0])
    assert isinstance(batch, sympy.Expr)
    assert rest == [4, 6]
    flat, twice = (sizes_of(node) for node in graph.graph.output_node().all_input_nodes)
    assert flat == (4 * batch, 6)
    assert twice == (2 * batch, 4, 6)
