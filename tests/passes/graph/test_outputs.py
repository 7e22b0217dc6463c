"""What a graph returns, flat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from passes.graph.outputs import flat_leaves, flat_outputs
from tests.passes.drawn import calls, drawn
from tests.passes.models import Function, fixed_graph_of, tokens


def test_outputs_are_the_tensors_of_any_structure_in_order() -> None:
    def forward(self: Function, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        return {"b": x + 1, "a": [x + 2, x + 3]}

    graph = fixed_graph_of(Function(forward).eval(), tokens())
    outputs = flat_outputs(graph, [tokens()])
    assert [float((output - tokens()).mean()) for output in outputs] == pytest.approx([1.0, 2.0, 3.0])
    assert len(flat_leaves(graph)) == 3
    assert not any(output.requires_grad for output in outputs)


def test_a_value_that_is_returned_twice_is_two_leaves_and_a_number_is_none() -> None:
    graph = drawn(lambda x: (x.sin(), x.cos()), tokens())
    (sin,) = calls(graph, torch.ops.aten.sin.default)
    graph.graph.output_node().args = ((sin, 3, {"again": sin, "none": None}),)
    assert flat_leaves(graph) == [sin, sin]
    assert len(flat_outputs(graph, [tokens()])) == 2
