"""Changes of shape behind a product: those that keep the last dimension may as well stand before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import Shared
from passes.fusion.shape_changes import SHAPES, carry, keeps_last, replay
from passes.graph.editing import finish
from passes.graph.operators import LINEAR
from tests.passes.drawn import calls, drawn, inputs_of, result
from tests.passes.models import normal

X, WEIGHT = normal(2, 6, 4), normal(8, 4, seed=3)

CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "a view ahead": (lambda x: x.view(2, 3, 2, -1), True),
    "a view of all ahead": (lambda x: x.reshape(12, x.shape[-1]), True),
    "a transposition ahead": (lambda x: x.transpose(0, 1), True),
    "a transposition counted from the end": (lambda x: x.transpose(-2, -3), True),
    "a permutation ahead": (lambda x: x.permute(1, 0, -1), True),
    "heads": (lambda x: x.view(2, 6, 2, -1), False),
    "a transposition of the last": (lambda x: x.transpose(1, -1), False),
    "a permutation of the last": (lambda x: x.permute(2, 0, 1), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_keeps_the_last_dimension_is_the_same_ahead_of_the_product(name: str) -> None:
    change, keeps = CHANGES[name]
    graph = drawn(lambda x: change(torch.nn.functional.linear(x, WEIGHT)), X)
    node = result(graph)
    assert node.target in SHAPES
    assert keeps_last(node) == keeps
    if keeps:
        (product,), (x,) = calls(graph, LINEAR), inputs_of(graph)
        emitter = _emitter(graph, node)
        moved = carry(emitter, node, x, 4, {product: Shared(product)})
        with graph.graph.inserting_before(graph.graph.output_node()):
            made = graph.graph.call_function(LINEAR, (moved, product.args[1]))
        graph.graph.output_node().args = (made,)
        assert torch.allclose(finish(graph)(X), change(torch.nn.functional.linear(X, WEIGHT)), rtol=1e-14)


def _emitter(graph: fx.GraphModule, node: fx.Node) -> Emitter:
    output = graph.graph.output_node()
    return Emitter(graph, Branches(((node,),) * 2, ((node,),) * 2, frozenset({node})), output, {})


def test_a_tail_is_played_again_on_another_product() -> None:
    graph = drawn(lambda x: (torch.nn.functional.linear(x, WEIGHT).view(2, 6, 2, 4).transpose(1, 2), x.exp()), X)
    (product,), (moved, _) = calls(graph, LINEAR), graph.graph.output_node().all_input_nodes
    with graph.graph.inserting_before(graph.graph.output_node()):
        other = graph.graph.call_function(torch.ops.aten.neg.default, (product,))
        again = replay(graph, (moved.args[0], moved), other)  # type: ignore[arg-type]
    graph.graph.output_node().args = ((moved, again),)
    first, second = finish(graph)(X)
    assert torch.equal(second, -first)
