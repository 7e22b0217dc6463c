"""Layouts: where branches lie after they are interleaved and viewed, against an enumeration of real tensors."""

from __future__ import annotations

import math
from itertools import product

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from passes.fusion.layout import interleave, through_view
from passes.graph.sizes import sizes
from tests.passes.models import vision

Shape = tuple[int, ...]


def _branches(count: int, shape: Shape) -> list[Tensor]:
    """Tensors of one shape in which no number occurs twice."""
    return list(torch.arange(count * math.prod(shape)).reshape(count, *shape))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@st.composite
def _factors(draw: st.DrawFn, number: int, most: int = 4) -> Shape:
    """A shape with `number` values."""
    shape = []
    for _ in range(draw(st.integers(0, most - 1))):
        shape.append(draw(st.sampled_from(_divisors(number))))
        number //= shape[-1]
    shape.insert(draw(st.integers(0, len(shape))), number)
    return tuple(shape)


@st.composite
def _wide(draw: st.DrawFn) -> tuple[Shape, int, int]:
    """A shape, a dimension of it from the right, and how much of that lies before the branches."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4).map(tuple))
    dim = draw(st.integers(-len(shape), -1))
    return shape, dim, draw(st.sampled_from(_divisors(shape[dim])))


def _widened(shape: Shape, dim: int, count: int) -> Shape:
    return (*shape[: len(shape) + dim], shape[dim] * count, *shape[len(shape) + dim + 1 :])


def _right_layouts(branches: list[Tensor], wide: Tensor, after: Shape) -> set[tuple[int, int]]:
    """Every (dimension, outer) in which the viewed wide tensor holds the viewed branches, found by trying all."""
    viewed = [branch.reshape(after) for branch in branches]
    return {
        (dim, outer)
        for dim in range(-len(after), 0)
        for outer in _divisors(after[dim])
        if torch.equal(wide.reshape(_widened(after, dim, len(branches))), interleave(viewed, dim, outer))
    }


@given(_wide(), st.integers(1, 3))
def test_branch_b_of_the_index_i_j_is_at_i_b_j(wide: tuple[Shape, int, int], count: int) -> None:
    shape, dim, outer = wide
    branches = _branches(count, shape)
    result = interleave(branches, dim, outer).movedim(dim, 0)
    assert result.numel() == count * math.prod(shape)
    inner = shape[dim] // outer
    for i, b, j in product(range(outer), range(count), range(inner)):
        assert torch.equal(result[(i * count + b) * inner + j], branches[b].movedim(dim, 0)[i * inner + j])


def test_an_outer_size_of_one_is_a_concatenation() -> None:
    branches = _branches(3, (2, 4))
    assert torch.equal(interleave(branches, 1, 1), torch.cat(branches, 1))


@settings(max_examples=100)
@given(st.data())
def test_a_view_takes_the_branches_to_where_the_rule_says(data: st.DataObject) -> None:
    before, dim, outer = data.draw(_wide())
    after = data.draw(_factors(math.prod(before)))
    branches = _branches(2, before)
    moved = through_view(before, after, dim, outer)
    if moved is not None:
        assert moved in _right_layouts(branches, interleave(branches, dim, outer), after)


@settings(max_examples=100)
@given(st.data())
def test_a_view_is_refused_only_where_no_dimension_holds_the_branches(data: st.DataObject) -> None:
    before, dim, outer = data.draw(_wide())
    if before[dim] // outer * math.prod(before[len(before) + dim + 1 :]) == 1:
        return  # the branches lie behind all else: no in-projection is laid out so
    after = data.draw(_factors(math.prod(before)))
    branches = _branches(2, before)
    if through_view(before, after, dim, outer) is None:
        assert _right_layouts(branches, interleave(branches, dim, outer), after) == set()


@settings(max_examples=50)
@given(st.data())
def test_a_view_with_a_free_batch_is_right_for_every_batch(data: st.DataObject) -> None:
    before, dim, outer = data.draw(_wide())
    after = data.draw(_factors(math.prod(before)))
    batch = sympy.Symbol("batch", positive=True, integer=True)
    moved = through_view((batch, *before), (batch, *after), dim, outer)
    if moved is None:
        return
    for number in (1, 2, 3):
        branches = _branches(2, (number, *before))
        assert moved in _right_layouts(branches, interleave(branches, dim, outer), (number, *after))


def test_a_batch_that_is_merged_with_the_tokens_keeps_the_branches_apart() -> None:
    batch = sympy.Symbol("batch", positive=True, integer=True)
    assert through_view((batch, 5, 8), (5 * batch, 8), -1, 1) == (-1, 1)
    assert through_view((5 * batch, 24), (batch, 5, 3, 8), -1, 2) is None
    assert through_view((5 * batch, 8), (batch, 5, 2, 4), -1, 1) == (-2, 1)


@pytest.mark.parametrize(
    ("before", "after", "outer", "moved"),
    [
        ((7, 5, 24), (7, 5, 3, 2, 4), 3, (-2, 1)),
        ((7, 5, 24), (7, 5, 3, 2, 4), 1, (-3, 1)),
        ((7, 5, 24), (7, 5, 3, 8), 6, (-1, 2)),
        ((7, 5, 24), (7, 5, 3, 8), 2, None),
        ((7, 5, 2, 4), (7, 5, 8), 1, (-1, 2)),
    ],
)
def test_a_split_dimension_has_the_branches_where_the_outer_size_is_used_up(
    before: Shape, after: Shape, outer: int, moved: tuple[int, int] | None
) -> None:
    assert through_view(before, after, -1, outer) == moved


def test_sizes_are_numbers_and_a_free_one_is_an_expression() -> None:
    (images_node,) = vision()[1].graph.find_nodes(op="placeholder")
    batch, *rest = sizes(images_node.meta["val"])
    assert isinstance(batch, sympy.Symbol)
    assert rest == [1, 8, 8]
    assert sizes(torch.empty(2, 3)) == (2, 3)
