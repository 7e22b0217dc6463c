"""Moves of the branches of a wide value, against the plain tensors of the branches, with the batch free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from passes.fusion.emitter import Branches, Emitter
from passes.fusion.layout import CannotLiftError, Normed, Shared, Stored, Wide, interleave
from passes.fusion.relayout import (
    avoiding,
    divided,
    expanded,
    front,
    int_or_none,
    materialised,
    moved,
    stacked,
    stacked_parameter,
    unflatten,
    unstacked,
    wide_parameter,
)
from passes.graph.sizes import Size
from tests.passes.models import normal

Shape = tuple[int, ...]
BATCH = sympy.Symbol("batch", positive=True, integer=True)


def _emitter(count: int) -> tuple[Emitter, fx.Node]:
    """An emitter into a graph that has one input and returns it."""
    graph = fx.Graph()
    source = graph.placeholder("source")
    output = graph.output(source)
    module = fx.GraphModule(nn.Module(), graph)
    branches = Branches(((source,),) * count, ((source,),) * count, frozenset())
    return Emitter(module, branches, output, {}), source


def _value(emitter: Emitter, node: fx.Node, source: Tensor) -> Tensor:
    """What the inserted nodes make of the input."""
    emitter.commit()
    emitter.before.args = (node,)
    result: Tensor = fx.Interpreter(emitter.module).run(source)
    return result


def _branches(count: int, shape: Shape) -> list[Tensor]:
    """Tensors of one shape in which no number occurs twice."""
    return list(torch.arange(count * math.prod(shape)).reshape(count, *shape))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _layouts(shape: Shape) -> list[tuple[int, int]]:
    return [(dim, outer) for dim in range(-len(shape), 0) for outer in _divisors(shape[dim])]


SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4).map(tuple)
COUNTS = st.integers(1, 3)


@st.composite
def _placed(draw: st.DrawFn) -> tuple[Shape, int, int]:
    shape = draw(SHAPES)
    return shape, *draw(st.sampled_from(_layouts(shape)))


@settings(max_examples=150, deadline=None)
@given(_placed(), COUNTS)
def test_branches_are_stacked_from_wherever_they_lie(placed: tuple[Shape, int, int], count: int) -> None:
    shape, dim, outer = placed
    branches, (emitter, source) = _branches(count, shape), _emitter(count)
    node = stacked(emitter, Wide(source, dim, outer, shape))
    assert torch.equal(_value(emitter, node, interleave(branches, dim, outer)), torch.stack(branches))


@settings(max_examples=150, deadline=None)
@given(_placed(), COUNTS)
def test_stacked_branches_are_laid_wherever_they_are_wanted(placed: tuple[Shape, int, int], count: int) -> None:
    shape, dim, outer = placed
    branches, (emitter, source) = _branches(count, shape), _emitter(count)
    wide = unstacked(emitter, source, shape, dim, outer)
    assert (wide.layout, wide.shape) == ((dim, outer), shape)
    assert torch.equal(_value(emitter, wide.node, torch.stack(branches)), interleave(branches, dim, outer))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_move_leads_from_any_place_to_any_other(data: st.DataObject) -> None:
    shape, count = data.draw(SHAPES), data.draw(COUNTS)
    here, there = (data.draw(st.sampled_from(_layouts(shape))) for _ in range(2))
    branches, (emitter, source) = _branches(count, shape), _emitter(count)
    wide = moved(emitter, Wide(source, *here, shape), *there)
    assert wide.layout == there
    assert torch.equal(_value(emitter, wide.node, interleave(branches, *here)), interleave(branches, *there))
    assert (wide.node is source) == (here == there)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_move_with_a_free_batch_is_right_for_every_batch(data: st.DataObject) -> None:
    inner, count = data.draw(SHAPES), data.draw(COUNTS)
    places = [*_layouts(inner), (-1 - len(inner), 1)]  # in front of the batch, too
    here, there = (data.draw(st.sampled_from(places)) for _ in range(2))
    emitter, source = _emitter(count)
    wide = moved(emitter, Wide(source, *here, (BATCH, *inner)), *there)
    for batch in (1, 2, 3):
        branches = _branches(count, (batch, *inner))
        assert torch.equal(_value(emitter, wide.node, interleave(branches, *here)), interleave(branches, *there))


def test_a_batch_that_is_the_outer_size_is_split_off() -> None:
    emitter, source = _emitter(2)
    wide = front(emitter, Wide(source, -2, BATCH, (BATCH * 5, 4)))  # as where batch and tokens are one dimension
    for batch in (1, 3):
        branches = _branches(2, (batch * 5, 4))
        assert torch.equal(_value(emitter, wide.node, interleave(branches, -2, batch)), torch.cat(branches))


def test_two_free_sizes_in_one_dimension_are_refused() -> None:
    emitter, source = _emitter(2)
    with pytest.raises(CannotLiftError, match=r"source has a dimension of .*, of which two sizes are free"):
        unflatten(emitter, source, 0, (BATCH, 2, BATCH))


def test_a_move_is_counted_unless_the_branches_lie_in_front() -> None:
    for here, there, moves in (
        ((-3, 1), (-3, 1), 0),
        ((-3, 1), (-1, 1), 1),
        ((-1, 2), (-3, 1), 1),
        ((-1, 2), (-1, 1), 2),
    ):
        emitter, source = _emitter(2)
        moved(emitter, Wide(source, *here, (3, 5, 4)), *there)
        assert emitter.moves == moves


@settings(max_examples=100, deadline=None)
@given(_placed(), COUNTS, st.data())
def test_dimensions_on_which_an_operator_acts_are_left(
    placed: tuple[Shape, int, int], count: int, data: st.DataObject
) -> None:
    shape, dim, outer = placed
    places = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    branches, (emitter, source) = _branches(count, shape), _emitter(count)
    value = Wide(source, dim, outer, shape)
    if places == set(range(len(shape))):
        with pytest.raises(CannotLiftError, match=r"source .* leaves no dimension in which the branches could lie"):
            avoiding(emitter, value, places, source)
        return
    wide = avoiding(emitter, value, places, source)
    assert wide.place not in places
    assert (wide is value) == (value.place not in places)
    assert torch.equal(_value(emitter, wide.node, interleave(branches, dim, outer)), interleave(branches, *wide.layout))


@settings(max_examples=50, deadline=None)
@given(_placed(), COUNTS)
def test_a_shared_value_is_repeated_for_each_branch(placed: tuple[Shape, int, int], count: int) -> None:
    shape, dim, outer = placed
    (tensor,), (emitter, source) = _branches(1, shape), _emitter(count)
    wide = expanded(emitter, Shared(source), shape, dim, outer)
    assert torch.equal(_value(emitter, wide.node, tensor), interleave([tensor] * count, dim, outer))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5, 1), (1, 5, 4)])
def test_parameters_are_stacked_so_that_they_broadcast(shape: Shape) -> None:
    own, state = [normal(1, *shape, seed=number)[0] for number in range(3)], normal(3, 5, 4)
    emitter, source = _emitter(3)
    parameter = stacked_parameter(emitter, Stored(tuple(own)), 3)
    node = emitter.emit(torch.ops.aten.mul.Tensor, (source, parameter))
    assert torch.equal(_value(emitter, node, state), torch.stack([state * tensor for tensor in own]))


@pytest.mark.parametrize(("shape", "dim"), [((4,), -1), ((1,), -1), ((), -1), ((4,), -2), ((5, 1), -1), ((5, 4), -2)])
@pytest.mark.parametrize("outer", [1, 2])
def test_parameters_lie_side_by_side_in_a_dimension_of_known_size(shape: Shape, dim: int, outer: int) -> None:
    if dim == -2 and outer == 2:
        return  # five tokens have no halves
    own, states = [normal(1, *shape, seed=number)[0] for number in range(3)], list(normal(3, 5, 4).expand(3, 5, 4))
    emitter, source = _emitter(3)
    parameter = wide_parameter(emitter, Stored(tuple(own)), (BATCH, 5, 4), dim, outer)
    assert parameter is not None
    node = emitter.emit(torch.ops.aten.mul.Tensor, (source, parameter))
    expected = interleave([state * tensor for state, tensor in zip(states, own, strict=True)], dim, outer)
    assert torch.equal(_value(emitter, node, interleave(states, dim, outer)), expected)


def test_parameters_cannot_lie_side_by_side_in_the_batch() -> None:
    emitter, _ = _emitter(2)
    assert wide_parameter(emitter, Stored((normal(4), normal(4))), (BATCH, 4), -2, 1) is None


def _shared(_: Emitter, source: fx.Node) -> Shared:
    return Shared(source)


def _wide(_: Emitter, source: fx.Node) -> Wide:
    return Wide(source, -1, 2, (3, 4))


@pytest.mark.parametrize("make", [_shared, _wide])
@pytest.mark.parametrize("gains", [(None, None), (normal(4, seed=2), None), (normal(4, seed=2), normal(4, seed=3))])
@pytest.mark.parametrize("shifts", [(None, None), (None, normal(4, seed=4)), (normal(4, seed=4), normal(4, seed=5))])
def test_gains_and_shifts_that_wait_are_applied(
    make: Callable[..., Shared | Wide], gains: Sequence[Tensor | None], shifts: Sequence[Tensor | None]
) -> None:
    emitter, source = _emitter(2)
    source.meta["val"] = normal(3, 4)
    states = [normal(3, 4)] * 2 if make is _shared else [normal(3, 4, seed=8), normal(3, 4, seed=9)]
    value = materialised(emitter, Normed(make(emitter, source), tuple(gains), tuple(shifts)), source, (3, 4))
    if all(vector is None for vector in (*gains, *shifts)):
        assert value == make(emitter, source)
        return
    assert isinstance(value, Wide)
    expected = [
        (x if g is None else x * g) + (0 if s is None else s) for x, g, s in zip(states, gains, shifts, strict=True)
    ]
    given_value = states[0] if make is _shared else interleave(states, -1, 2)
    result = _value(emitter, value.node, given_value)
    assert float((result - interleave(expected, *value.layout)).abs().max()) < 1e-14


@pytest.mark.parametrize(("size", "number"), [(3, 3), (sympy.Integer(3), 3), (BATCH, None), (2 * BATCH, None)])
def test_a_size_is_a_number_or_free(size: Size, number: int | None) -> None:
    assert int_or_none(size) == number


@pytest.mark.parametrize(("size", "part", "result"), [(6, 2, 3), (6 * BATCH, BATCH, 6), (6 * BATCH, 2, 3 * BATCH)])
def test_sizes_are_divided_by_expression(size: Size, part: Size, result: Size) -> None:
    assert divided(size, part) == result
    assert type(divided(6, 2)) is int
