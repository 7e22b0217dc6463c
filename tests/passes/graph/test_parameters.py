"""Parameters of a graph: read without a gradient, added under a name of their own."""

from __future__ import annotations

import torch
from torch import nn

from passes.graph.editing import clone
from passes.graph.parameters import add_parameter, read_parameter, register_parameter, store_parameter
from tests.passes.models import WIDTH, fixed_graph_of, normal, randomised


def _graph() -> tuple[torch.fx.GraphModule, torch.fx.Node]:
    graph = clone(fixed_graph_of(randomised(nn.Sequential(nn.Linear(WIDTH, WIDTH))), normal(3, WIDTH)))
    (linear,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    return graph, linear


def test_a_parameter_is_read_by_its_path_and_without_a_gradient() -> None:
    graph, linear = _graph()
    value = read_parameter(graph, linear.args[1])
    assert value.data_ptr() == graph.get_parameter("0.weight").data_ptr()
    assert not value.requires_grad


def test_parameters_of_one_name_are_numbered() -> None:
    graph, linear = _graph()
    nodes = [add_parameter(graph, "wide", torch.full((2,), float(i)), linear) for i in range(3)]
    assert [node.target for node in nodes] == ["wide_0", "wide_1", "wide_2"]
    assert [float(read_parameter(graph, node)[0]) for node in nodes] == [0.0, 1.0, 2.0]


def test_a_new_parameter_stands_before_its_reader_and_has_shape_and_dtype() -> None:
    graph, linear = _graph()
    node = add_parameter(graph, "wide", normal(4, 2).T, linear)
    assert linear.prev is node
    assert node.meta["val"].shape == (2, 4)
    assert node.meta["val"].dtype == torch.float64


def test_a_new_parameter_is_stored_in_one_piece_and_is_not_trained() -> None:
    graph, linear = _graph()
    add_parameter(graph, "wide", normal(4, 2).T, linear)
    stored = graph.get_parameter("wide_0")
    assert stored.is_contiguous()
    assert not stored.requires_grad
    assert torch.equal(stored, normal(4, 2).T)


def test_a_stored_tensor_keeps_its_memory_and_its_strides() -> None:
    graph, linear = _graph()
    weight = graph.get_parameter("0.weight").detach()
    node = store_parameter(graph, "view", weight.T, linear)
    assert linear.prev is node
    assert read_parameter(graph, node).data_ptr() == weight.data_ptr()
    assert read_parameter(graph, node).stride() == weight.T.stride() == node.meta["val"].stride()


def test_a_registered_tensor_needs_no_node_and_its_name_skips_those_that_are_taken() -> None:
    graph, _ = _graph()
    before = len(graph.graph.nodes)
    graph.register_parameter("wide_1", nn.Parameter(normal(2)))
    names = [register_parameter(graph, "wide", normal(2)) for _ in range(3)]
    assert names == ["wide_0", "wide_2", "wide_3"]
    assert len(graph.graph.nodes) == before


def test_names_go_on_where_a_clone_left_off_and_integers_can_be_stored() -> None:
    graph, linear = _graph()
    add_parameter(graph, "wide", normal(2), linear)
    copied = clone(graph)
    assert register_parameter(copied, "wide", torch.arange(3)) == "wide_1"
    assert register_parameter(graph, "wide", normal(2)) == "wide_1"
    assert copied.get_parameter("wide_1").dtype == torch.int64
