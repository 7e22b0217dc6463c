"""A sum of values times numbers: what it computes, and in how many operators."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from passes.graph.weighted_sum import weighted_sum


@pytest.mark.parametrize(
    ("factors", "operators"),
    [
        ((1.0,), 0),
        ((0.5,), 1),
        ((1.0, 1.0, 1.0), 2),
        ((-1.0, 1.0), 1),
        ((-1.0, -1.0), 2),
        ((0.25, 1.0, -1.0), 3),
        ((0.0, 1.0, 0.0), 0),
        ((2.0, 0.5), 3),
    ],
)
def test_each_value_counts_as_often_as_its_factor_says(factors: tuple[float, ...], operators: int) -> None:
    graph = fx.Graph()
    graph.output([graph.placeholder(f"x{number}") for number in range(len(factors))])
    module = fx.GraphModule(torch.nn.Module(), graph)
    *values, output = module.graph.nodes
    with module.graph.inserting_before(output):
        output.args = (weighted_sum(module, zip(values, factors, strict=True)),)
    module.recompile()
    given = [torch.randn(3, dtype=torch.float64) for _ in values]
    expected = sum(factor * value for factor, value in zip(factors, given, strict=True))
    torch.testing.assert_close(module(*given), expected, rtol=1e-12, atol=1e-12)
    assert sum(node.op == "call_function" for node in module.graph.nodes) == operators
