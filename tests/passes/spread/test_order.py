"""The order of collectives."""

from __future__ import annotations

from torch import Tensor

from passes.spread.collectives import ALL_REDUCE
from passes.spread.order import LEVEL, restore_collectives
from tests.passes.drawn import calls, drawn
from tests.passes.models import normal, text


def _two_towers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return ALL_REDUCE(x.relu(), "sum", "g").sin(), ALL_REDUCE(y.relu(), "sum", "g").cos()


def test_collectives_run_by_their_numbers_and_the_rest_stays_in_order() -> None:
    graph = drawn(_two_towers, normal(2), normal(2))
    first, second = calls(graph, ALL_REDUCE)
    first.meta[LEVEL], second.meta[LEVEL] = 1, 0
    restore_collectives(graph)
    graph.graph.lint()
    assert calls(graph, ALL_REDUCE) == [second, first]
    names = [node.name for node in graph.graph.nodes if node.op == "call_function"]
    assert names.index("relu") < names.index("relu_1")


def test_a_graph_in_order_stays_as_it_is() -> None:
    graph = drawn(_two_towers, normal(2), normal(2))
    for number, node in enumerate(calls(graph, ALL_REDUCE)):
        node.meta[LEVEL] = number
    before = text(graph)
    restore_collectives(graph)
    assert text(graph) == before
