"""Operators in the place of one node: known shapes at once, sizes as numbers, or read where they are read already."""

from __future__ import annotations

import functools

import torch
from torch import fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.editing import clone
from passes.graph.operators import aten
from passes.graph.replacing import Replacing, arguments, rank_of, size_texts
from tests.passes.drawn import calls, drawn, inputs_of, result
from tests.passes.models import Function, graph_of, normal


@functools.cache
def _captured() -> fx.GraphModule:
    """A batch and a number of tokens that are free, the batch read in the end."""
    model = Function(lambda _, x: x.exp().sin().reshape(x.shape[0], -1).cos()).eval()
    return graph_of(model, normal(3, 4, 6), dynamic=[{0: "batch", 1: "tokens"}])


def test_arguments_have_names_and_their_defaults() -> None:
    (node,) = calls(drawn(lambda x: F.softmax(x, -1), normal(3, 4)), aten.softmax.int)
    assert arguments(node)["dim"] == -1
    assert arguments(node)["dtype"] is None
    (total,) = calls(drawn(lambda x: x.sum(-1, keepdim=True, dtype=torch.float32), normal(3, 4)), aten.sum.dim_IntList)
    found = arguments(total)
    assert [found[name] for name in ("dim", "keepdim", "dtype")] == [[-1], True, torch.float32]


def test_what_is_emitted_stands_before_the_node_and_has_its_place_in_the_model_and_its_shape() -> None:
    graph = drawn(lambda x: x.sin().cos(), normal(3, 4))
    (cos,) = calls(graph, aten.cos.default)
    cos.meta["nn_module_stack"] = {"a": ("blocks.1", object)}
    place = Replacing(graph, cos)
    flat = place.emit(aten.flatten.using_ints, cos.args[0], 0, 1)
    assert cos.prev is flat
    assert tuple(flat.meta["val"].shape) == (12,)
    assert flat.meta["nn_module_stack"] is cos.meta["nn_module_stack"]
    place.replace(place.emit(aten.neg.default, flat))
    assert calls(graph, aten.cos.default) == []
    graph.recompile()
    assert torch.equal(graph(normal(3, 4)), -normal(3, 4).sin().flatten())


def test_sizes_that_are_known_are_numbers() -> None:
    free = _captured()
    (node,) = calls(free, aten.sin.default)
    assert Replacing(free, node).size(node, -1) == 6
    assert (rank_of(node), size_texts(node)[2]) == (3, "6")
    assert size_texts(node)[:2] == size_texts(inputs_of(free)[0])[:2]


def test_a_free_size_is_read_from_an_input_and_where_it_was_read_before() -> None:
    graph = clone(_captured())
    ((x,), (sin,), (cos,)) = inputs_of(graph), calls(graph, aten.sin.default), calls(graph, aten.cos.default)
    known = [node for node in calls(graph, aten.sym_size.int) if node.args == (x, 0)]
    batch, tokens, width = Replacing(graph, cos).sizes(sin)
    assert [batch] == known
    assert isinstance(tokens, fx.Node)
    assert (tokens.args, width) == ((x, 1), 6)
    again = Replacing(graph, sin).size(sin.args[0], 1)  # ahead of what reads it already
    assert again is not tokens
    graph.graph.lint()


def test_a_size_that_no_input_has_is_read_where_it_is() -> None:
    graph = graph_of(Function(lambda _, x: torch.cat([x, x]).exp()).eval(), normal(3, 4))
    read = Replacing(graph, result(graph)).size(calls(graph, aten.cat.default)[0], -2)
    assert isinstance(read, fx.Node)
    assert read.args == (calls(graph, aten.cat.default)[0], 0)


def test_two_dimensions_change_places_by_a_transposition_and_more_by_a_permutation() -> None:
    graph = drawn(torch.exp, normal(3, 4, 6))
    (x,), place = inputs_of(graph), Replacing(graph, result(graph))
    assert place.permuted(x, [0, 1, 2]) is x
    exchanged, moved = place.permuted(x, [2, 1, 0]), place.permuted(x, [1, 2, 0])
    assert (exchanged.target, exchanged.args[1:]) == (aten.transpose.int, (0, 2))
    assert (moved.target, tuple(moved.meta["val"].shape)) == (aten.permute.default, (4, 6, 3))
