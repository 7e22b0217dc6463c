"""The operators that passes know by name."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from passes.graph import operators as ops

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("target", "count"),
    [
        (aten.linear.default, 1),
        (aten.addmm.default, 1),
        (aten.matmul.default, 1),
        (aten.bmm.default, 1),
        (aten.conv2d.default, 1),
        (aten.convolution.default, 1),
        (aten.scaled_dot_product_attention.default, 2),
        (aten.layer_norm.default, 0),
        (aten.gelu.default, 0),
        (aten.add.Tensor, 0),
    ],
)
def test_an_operator_counts_the_matrix_products_it_stands_for(target: object, count: int) -> None:
    assert ops.gemms(fx.Graph().call_function(target)) == count  # type: ignore[arg-type]


def test_inputs_and_parameters_are_no_matrix_products() -> None:
    graph = fx.Graph()
    assert ops.gemms(graph.placeholder("x")) == 0
    assert ops.gemms(graph.get_attr("weight")) == 0


def test_no_operator_is_elementwise_that_mixes_elements() -> None:
    mixing = ops.NORMS | ops.SOFTMAXES | ops.MATRIX_PRODUCTS | ops.CONVOLUTIONS | ops.LINEARS | ops.VIEWS
    assert not ops.ELEMENTWISE & mixing
    assert ops.ATTENTION not in ops.ELEMENTWISE


@pytest.mark.parametrize(
    ("target", "arguments", "random"),
    [
        (aten.dropout.default, (0.5, True), True),
        (aten.dropout.default, (0.5, False), False),
        (aten.feature_alpha_dropout.default, (0.5, True), True),
        (aten.rand_like.default, (), True),
        (aten.bernoulli.p, (0.5,), True),
        (aten.relu.default, (), False),
        (aten.scaled_dot_product_attention.default, (None, None, None, 0.5), True),
        (aten.scaled_dot_product_attention.default, (None, None), False),
        (torch.ops.higher_order.cond, (), True),
        (ops.GETITEM, (0,), False),
    ],
)
def test_an_operator_is_random_where_it_may_draw_values(
    target: object, arguments: tuple[object, ...], random: bool
) -> None:
    graph = fx.Graph()
    node = graph.call_function(target, (graph.placeholder("x"), *arguments))  # type: ignore[arg-type]
    assert ops.is_random(node) == random


def test_attention_says_its_dropout_by_name_too() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert ops.is_random(graph.call_function(ops.ATTENTION, (x, x, x), {"dropout_p": 0.1}))
    assert not ops.is_random(graph.call_function(ops.ATTENTION, (x, x, x), {"dropout_p": 0.0}))
