"""The operators that passes know by name."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from passes import operators as ops

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
