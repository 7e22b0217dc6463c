"""Data flow: which tensors depend on the values of which, shape arithmetic left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from passes.graph.dataflow import (
    canonical_walk,
    carries_tensors,
    descendants,
    is_symbolic,
    positions,
    region_between,
    same_shape,
    tensor_inputs,
    tensor_value,
)
from passes.stacks.find import find_stacks
from tests.passes.models import Function, graph_of, normal, tokens, vision

aten = torch.ops.aten


class Diamond:
    """x -> a -> b -> d, x -> c -> d, and e, which reads x only for its size."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x = self._named(self.graph.placeholder("x"))
        self.a = self._call(aten.relu.default, self.x)
        self.b = self._call(aten.tanh.default, self.a)
        self.c = self._call(aten.exp.default, self.x)
        self.d = self._call(aten.add.Tensor, self.b, self.c)
        self.other = self._named(self.graph.placeholder("other"))
        self.size = self.graph.call_function(aten.sym_size.int, (self.x, 0))
        self.size.meta["val"] = 2
        self.e = self._call(aten.view.default, self.other, [self.size, 3])
        self.place = positions(self.graph)

    def _named(self, node: fx.Node) -> fx.Node:
        node.meta["val"] = torch.empty(2, 3)
        return node

    def _call(self, target: object, *arguments: object) -> fx.Node:
        return self._named(self.graph.call_function(target, arguments))  # type: ignore[arg-type]


def test_the_region_between_two_nodes_is_what_lies_on_the_paths_between_them() -> None:
    g = Diamond()
    assert region_between(g.x, g.d, g.place) == [g.a, g.b, g.c, g.d]
    assert region_between(g.a, g.d, g.place) == [g.b, g.d]
    assert region_between(g.c, g.d, g.place) == [g.d]


def test_there_is_no_region_where_one_node_does_not_depend_on_the_other() -> None:
    g = Diamond()
    assert region_between(g.a, g.c, g.place) == []
    assert region_between(g.d, g.x, g.place) == []
    assert region_between(g.d, g.e, g.place) == []


def test_reading_a_size_is_no_dependence_on_values() -> None:
    g = Diamond()
    assert region_between(g.x, g.e, g.place) == []
    assert g.e not in descendants([g.x])
    assert list(tensor_inputs(g.e)) == [g.other]


def test_descendants_are_all_that_depend_on_a_value_and_the_node_itself() -> None:
    g = Diamond()
    assert descendants([g.a]) == {g.a, g.b, g.d}
    assert descendants([g.b, g.c]) == {g.b, g.c, g.d}
    assert descendants([g.size]) == {g.size}


def test_a_node_of_several_tensors_carries_tensors_and_is_none_itself() -> None:
    graph = graph_of(Function(lambda self, x: x.unbind(-1)[0]).eval(), tokens())
    (unbind,) = graph.graph.find_nodes(op="call_function", target=aten.unbind.int)
    assert carries_tensors(unbind)
    assert tensor_value(unbind) is None


def test_a_size_carries_no_tensor() -> None:
    (size,) = vision()[1].graph.find_nodes(op="call_function", target=aten.sym_size.int)
    assert not carries_tensors(size)
    assert tensor_value(size) is None


def test_sizes_known_only_at_run_time_are_symbolic() -> None:
    (images,) = vision()[1].graph.find_nodes(op="placeholder")
    assert [is_symbolic(size) for size in images.meta["val"].shape] == [True, False, False, False]


def test_shapes_are_the_same_where_sizes_and_symbols_are() -> None:
    def forward(self: Function, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x.exp(), x + 1, x.flatten(0, 1), y.exp()

    names = [{0: "batch"}, {0: "rows"}]
    graph = graph_of(Function(forward).eval(), normal(3, 5, 8), normal(4, 5, 8), dynamic=names)
    values = [leaf.meta["val"] for leaf in next(iter(graph.graph.find_nodes(op="output"))).args[0]]
    same, other, flat, rows = values
    assert same_shape(same, other)
    assert not same_shape(same, flat)
    assert not same_shape(same, rows)
    assert not same_shape(torch.empty(2, 3), torch.empty(2, 4))
    assert not same_shape(torch.empty(2, 3), torch.empty(2, 3, 1))


def test_a_canonical_walk_lists_inputs_before_what_reads_them_and_stops_at_leaves() -> None:
    g = Diamond()
    assert canonical_walk(g.d, lambda _: True) == [g.x, g.a, g.b, g.c, g.d]
    assert canonical_walk(g.d, {g.d, g.b}.__contains__) == [g.a, g.b, g.c, g.d]
    assert canonical_walk(g.d, lambda _: False) == [g.d]


def test_canonical_walks_of_alike_terms_correspond_node_by_node() -> None:
    first, _, second, *_ = find_stacks(vision()[1]).stacks[0].terms
    walks = [canonical_walk(term.output, term.inner.__contains__) for term in (first, second)]
    assert [str(node.target).replace("blocks.0", "blocks.1") for node in walks[0] if node is not first.skip] == [
        str(node.target) for node in walks[1] if node is not second.skip
    ]


@pytest.mark.parametrize("length", [5000])
def test_long_chains_are_walked_without_recursion(length: int) -> None:
    graph = fx.Graph()
    node = first = graph.placeholder("x")
    node.meta["val"] = torch.empty(1)
    for _ in range(length):
        node = graph.call_function(aten.relu.default, (node,))
        node.meta["val"] = torch.empty(1)
    assert len(canonical_walk(node, lambda _: True)) == length + 1
    assert len(region_between(first, node, positions(graph))) == length
    assert len(descendants([first])) == length + 1


def test_positions_count_in_the_order_of_execution() -> None:
    g = Diamond()
    assert [node for node, _ in sorted(g.place.items(), key=lambda item: item[1])] == list(g.graph.nodes)
