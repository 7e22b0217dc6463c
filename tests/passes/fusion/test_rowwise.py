"""Operators row by row, and how many last dimensions a view ahead of one must leave as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.rowwise import is_rowwise, operands, row_rank, trailing_of
from tests.passes.drawn import drawn, inputs_of, result
from tests.passes.models import normal

X, GAIN = normal(3, 4, 6), nn.Parameter(normal(6))

Forward = Callable[[Tensor], Tensor]

# with how many last dimensions stay, None where no view may move
TRAILING: dict[str, tuple[Forward, int | None]] = {
    "a function of each value": (torch.tanh, 0),
    "a number": (lambda x: x * 2, 0),
    "a vector": (lambda x: x + GAIN, 1),
    "a parameter of two dimensions": (lambda x: x * GAIN.expand(4, 6), 2),
    "a value beside itself": (lambda x: x * x, 0),
    "layer norm": (lambda x: F.layer_norm(x, [6], GAIN), 1),
    "layer norm of two dimensions": (lambda x: F.layer_norm(x, [4, 6]), 2),
    "rms norm": (lambda x: F.rms_norm(x, [6]), 1),
    "a product": (lambda x: x @ x.new_ones(6, 6), None),
    "a sum": (lambda x: x.sum(0), None),
    "a softmax": (lambda x: x.softmax(-1), None),
    "a copy": (lambda x: x.clone(), None),
    "another layout": (lambda x: torch.zeros_like(x, memory_format=torch.contiguous_format), None),
    "a dropout in training": (lambda x: F.dropout(x, 0.5, training=True), None),
}


@pytest.mark.parametrize("name", TRAILING)
def test_a_view_of_leading_dimensions_may_stand_on_either_side_of_what_is_row_by_row(name: str) -> None:
    forward, trailing = TRAILING[name]
    graph = drawn(forward, X)
    node = result(graph)
    assert trailing_of(node, inputs_of(graph)[0]) == trailing
    assert is_rowwise(node) == (trailing is not None)
    if trailing is not None and trailing < 2:
        assert torch.equal(forward(X.flatten(0, 1)), forward(X).flatten(0, 1))


def test_a_result_with_dimensions_that_the_source_has_not_lets_no_view_through() -> None:
    graph = drawn(lambda x, y: x[0] + y, X, X)
    (_, y), node = inputs_of(graph), result(graph)
    assert is_rowwise(node)
    assert trailing_of(node, operands(node)[0]) is None
    assert trailing_of(node, y) == 2


def test_a_gain_that_is_computed_is_no_row_of_a_norm() -> None:
    graph = drawn(lambda x, g: F.layer_norm(x, [6], g), X, normal(6))
    (x, gain), node = inputs_of(graph), result(graph)
    assert (row_rank(node), operands(node)) == (1, [x, gain])
    assert trailing_of(node, x) == 1
    assert trailing_of(node, gain) is None
