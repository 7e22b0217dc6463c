from __future__ import annotations

import torch
from torch import nn

from parallelize.models.capture import capture
from parallelize.predicting.bound_shapes import BoundShapes, Value
from tests.parallelize.small_models import vision


def _value(shape: tuple[int, ...], strides: tuple[int, ...]) -> Value:
    return Value(shape, strides, torch.float32)


def test_every_size_and_stride_of_a_graph_is_a_number() -> None:
    program = vision(4)
    shapes = BoundShapes(program, {"batch": 7})
    nodes = [node for node in program.module.graph.nodes if node.op in ("placeholder", "call_function")]
    found = [value for node in nodes for value in shapes.values(node)]
    assert {type(number) for value in found for number in (*value.shape, *value.strides)} == {int}
    assert next(shapes.values(nodes[0])).shape == (7, 1, 8, 8)


def test_sizes_that_follow_from_others_follow() -> None:
    class Joined(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x]).transpose(0, 1)

    program = capture(Joined().eval(), (torch.zeros(2, 3),))
    shapes = BoundShapes(program, {"batch": 5})
    last = [node for node in program.module.graph.nodes if node.op == "call_function"][-1]
    assert shapes.value(last) == _value((3, 10), (1, 3))
    assert shapes.argument(last, 0) == _value((10, 3), (3, 1))


def test_an_expanded_dimension_lies_in_memory_once() -> None:
    assert (_value((4, 3), (0, 1)).count, _value((4, 3), (0, 1)).distinct) == (12, 3)


def test_how_one_element_lies_does_not_matter() -> None:
    assert _value((1, 3), (99, 1)).order == _value((1, 3), (3, 1)).order == (1,)
    assert _value((1, 3), (99, 1)).is_contiguous
    assert not _value((2, 3), (1, 2)).is_contiguous


def test_a_shape_is_a_view_where_memory_allows_it() -> None:
    assert _value((2, 3, 4), (12, 4, 1)).views_as((6, 4))
    assert not _value((2, 3, 4), (4, 8, 1)).views_as((6, 4))
    assert _value((2, 3, 4), (12, 1, 3)).views_as((2, 3, 2, 2))
