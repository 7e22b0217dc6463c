"""Views as nodes: the operators that need the fewest sizes read, and none where a size cannot be read."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, fx

from passes.graph.editing import clone
from passes.graph.operators import aten
from passes.graph.rearrangement import Permute, Step, View
from passes.graph.replacing import Replacing
from passes.graph.sizes import Size
from passes.graph.view_nodes import Emitted, expression, lies_alike, sizes_of
from tests.passes.drawn import calls, drawn, inputs_of, result
from tests.passes.models import Function, graph_of, normal, text, wrong_metadata


@functools.cache
def _captured() -> fx.GraphModule:
    return graph_of(Function(lambda _, x: x.exp()).eval(), normal(3, 4, 12), dynamic=[{0: "batch", 1: "tokens"}])


def _graph() -> tuple[fx.GraphModule, fx.Node, Replacing]:
    """exp of an input of (batch, tokens, 12), both free, and the place ahead of it."""
    graph = clone(_captured())
    (exp,) = calls(graph, aten.exp.default)
    return graph, exp, Replacing(graph, exp)


STEPS: dict[str, tuple[object, ...]] = {
    "one free size": (aten.reshape.default, 0, lambda b, t: [View((b * t, 12))]),
    "split": (aten.unflatten.int, 0, lambda b, t: [View((b, t, 3, 4))]),
    "one more": (aten.unsqueeze.default, 0, lambda b, t: [View((b, 1, t, 12))]),
    "joined": (aten.flatten.using_ints, 0, lambda b, t: [View((b, 12 * t))]),
    "one less": (aten.squeeze.dim, 0, lambda b, t: [View((b, 1, t, 12)), View((b, t, 12))]),
    "moved": (aten.permute.default, 0, lambda b, t: [Permute((2, 0, 1))]),
    "exchanged": (aten.transpose.int, 0, lambda b, t: [Permute((0, 2, 1))]),
    "two free": (aten.reshape.default, 1, lambda b, t: [View((b, 1, t, 2, 6))]),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_view_reads_no_more_sizes_than_it_must(name: str) -> None:
    target, reads, steps = STEPS[name]
    graph, _, place = _graph()
    before = text(graph)
    batch, length, _ = sizes_of(inputs_of(graph)[0])
    emitted = Emitted.after(place, inputs_of(graph)[0], steps(batch, length))  # type: ignore[operator]
    assert emitted is not None
    assert (emitted.node.target, emitted.reads) == (target, reads)
    assert sizes_of(emitted.node) == _expected(steps(batch, length), sizes_of(inputs_of(graph)[0]))  # type: ignore[operator]
    emitted.abandon()
    assert text(graph) == before


def _expected(steps: Sequence[Step], sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    for step in steps:
        sizes = tuple(sizes[place] for place in step.order) if isinstance(step, Permute) else step.shape
    return sizes


def test_a_run_of_steps_is_right_for_every_size() -> None:
    graph, exp, place = _graph()
    (x,) = inputs_of(graph)
    batch, length, _ = sizes_of(x)
    steps = [
        View((batch, length, 3, 4)),
        Permute((2, 0, 1, 3)),
        View((3 * batch, length, 4)),
        View((3 * batch, 1, length, 4)),
    ]
    emitted = Emitted.after(place, x, steps)
    assert emitted is not None
    exp.args = (emitted.node,)
    exp.meta["val"] = emitted.node.meta["val"]
    graph.recompile()
    for sizes in ((1, 5), (3, 4), (4, 1)):
        y = normal(*sizes, 12)
        expected = y.unflatten(-1, (3, 4)).permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(1).exp()
        assert torch.equal(graph(y), expected)
        assert wrong_metadata(graph, y) == []


def test_a_view_of_sizes_that_nothing_can_be_read_from_is_none_and_leaves_nothing() -> None:
    graph, _, place = _graph()
    before = text(graph)
    batch, length, _ = sizes_of(inputs_of(graph)[0])
    assert Emitted.after(place, inputs_of(graph)[0], [Permute((1, 0, 2)), View((2 * length, 2 * batch, 3))]) is None
    assert text(graph) == before


def test_an_operator_ahead_of_the_place_that_computes_the_same_is_taken() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.transpose(1, 2).sin().sum() + x.exp() + x.permute(1, 2, 0).sum()

    graph = drawn(forward, normal(3, 4, 6))
    (x,), (exp,) = inputs_of(graph), calls(graph, aten.exp.default)
    known = Emitted.after(Replacing(graph, exp), x, [Permute((0, 2, 1))])
    assert known is not None
    assert ([known.node], known.created) == (calls(graph, aten.transpose.int), [])
    later = Emitted.after(Replacing(graph, exp), x, [Permute((1, 2, 0))])  # the other one runs after the place
    assert later is not None
    assert later.created == [later.node]


def test_values_lie_alike_where_shape_and_strides_are_those() -> None:
    graph = drawn(
        lambda x: (x.transpose(1, 2), x.transpose(1, 2).contiguous(), x.reshape(3, 6, 4), x[:1].transpose(0, 1)),
        normal(3, 4, 6),
    )
    moved, copied, viewed, one = graph.graph.output_node().args[0]  # type: ignore[misc]
    assert lies_alike(copied, viewed)
    assert not lies_alike(moved, copied)
    assert not lies_alike(moved, one)
    assert lies_alike(one, one)
    assert expression(3) == 3


def test_where_a_size_is_one_its_stride_does_not_matter() -> None:
    graph = drawn(lambda x: (x.transpose(0, 1), x.reshape(4, 1, 6)), normal(1, 4, 6))
    left, right = graph.graph.output_node().args[0]  # type: ignore[misc]
    assert left.meta["val"].stride() != right.meta["val"].stride()
    assert lies_alike(left, right)
    assert result(drawn(torch.exp, normal(2))).target == aten.exp.default
