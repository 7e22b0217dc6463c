"""What of a sum can run apart."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from passes.fusion.sums import expand, find_roots
from passes.graph.dataflow import positions
from passes.spread.units import Units, find_units
from tests.passes.drawn import drawn
from tests.passes.models import normal

A, B, C = normal(8, 8, seed=2), normal(8, 8, seed=3), normal(8, 8, seed=4)


def _units(function: Callable[[Tensor], Tensor]) -> Units:
    graph = drawn(function, normal(3, 8))
    place = positions(graph.graph)
    root = [node for node, last in find_roots(graph).items() if node is last][-1]
    return find_units(expand(graph, root, place), place)


def _works(function: Callable[[Tensor], Tensor]) -> list[tuple[int, float]]:
    """For each unit how many summands it has, and its work in products of an 8 x 8 matrix."""
    return [(len(unit.outputs), unit.work / (2 * 3 * 8 * 8)) for unit in _units(function).items]


def test_each_summand_with_a_product_of_its_own_is_a_unit() -> None:
    assert _works(lambda x: x + x.relu() @ A + (x @ B).relu() @ C) == [(1, 1), (1, 2)]


def test_the_terms_of_a_chain_are_one_unit() -> None:
    def level(x: Tensor) -> Tensor:
        first = x @ A
        return x + first + (x + first).relu() @ B + x.relu() @ C

    assert _works(level) == [(2, 2), (1, 1)]


def test_a_product_that_all_summands_share_belongs_to_none_and_a_norm_that_two_share_joins_nothing() -> None:
    def level(x: Tensor) -> Tensor:
        shared, normed = x @ A, x.softmax(-1)
        return x + normed @ A * shared + normed @ B * shared + x.relu() @ C * shared

    assert _works(level) == [(1, 1), (1, 1), (1, 1)]


def test_a_summand_that_something_else_reads_too_is_no_unit() -> None:
    def level(x: Tensor) -> Tensor:
        first = x @ A
        return first.sum() + (x + first + x.relu() @ B + x.tanh() @ C)

    assert _works(lambda x: level(x)[None]) in ([(1, 1), (1, 1)], [])
    assert all("matmul" in output.name for unit in _units(level).items for output in unit.outputs)


def test_summands_without_a_product_are_left_where_they_are() -> None:
    assert _works(lambda x: x + x.relu() + x.softmax(-1) + x @ A) == [(1, 1)]
