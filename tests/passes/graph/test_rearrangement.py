"""Rearrangements: whatever views and permutations did to a tensor, the fewest operators put every value there too."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from passes.graph.rearrangement import Permute, Rearrangement, Step, View, plain, product, quotient
from passes.graph.sizes import Size

B, T = sympy.symbols("b t", integer=True, positive=True)
FREE = {B: 5, T: 7}


def _known(shape: Sequence[Size]) -> list[int]:
    return [size if isinstance(size, int) else int(size.subs(FREE)) for size in shape]


def _run(steps: Sequence[Step], shape: Sequence[Size]) -> Tensor:
    """What the steps make of the numbers 0, 1, 2 ... in a shape."""
    x = torch.arange(prod(_known(shape))).reshape(_known(shape))
    for step in steps:
        x = x.permute(step.order) if isinstance(step, Permute) else x.reshape(_known(step.shape))
    return x


def _followed(steps: Sequence[Step], shape: Sequence[Size]) -> Rearrangement:
    found = Rearrangement.identity(shape)
    for step in steps:
        following = found.permuted(step.order) if isinstance(step, Permute) else found.viewed(step.shape)
        assert following is not None
        found = following
    return found


@st.composite
def _runs(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Step]]:
    """A shape of 24 or 1 values and views and permutations in a row."""
    shapes = ((24,), (4, 6), (2, 3, 4), (2, 12), (3, 1, 8), (2, 2, 2, 3), (1, 24), (6, 4), (2, 1, 12, 1))
    start = shape = draw(st.sampled_from(shapes))
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(shape))))
            steps.append(Permute(tuple(order)))
            shape = tuple(shape[place] for place in order)
        else:
            shape = draw(st.sampled_from(shapes))
            steps.append(View(shape))
    return start, steps


@given(run=_runs())
def test_the_fewest_operators_do_what_any_run_does(run: tuple[tuple[int, ...], list[Step]]) -> None:
    start, steps = run
    found: Rearrangement | None = Rearrangement.identity(start)
    for step in steps:
        assert found is not None
        found = found.permuted(step.order) if isinstance(step, Permute) else found.viewed(step.shape)
        if found is None:
            return  # not known what a dimension holds
    assert found is not None
    for way in found.steps():
        assert len(way) <= min(3, len(steps))
        assert torch.equal(_run(way, start), _run(steps, start))


def test_a_permutation_and_its_inverse_are_nothing_and_equal_runs_are_equal() -> None:
    there, back = Permute((1, 2, 0)), Permute((2, 0, 1))
    assert _followed([there, back], (3, 4, 6)) == Rearrangement.identity((3, 4, 6))
    assert Rearrangement.identity((3, 4, 6)).steps() == ((),)
    split = [View((3, 4, 2, 3)), Permute((0, 2, 3, 1)), View((3, 6, 4))]
    assert _followed(split, (3, 4, 6)) == _followed([Permute((0, 2, 1))], (3, 4, 6))


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        pytest.param((3, 4, 6), [View((12, 6)), View((3, 24))], [(View((3, 24)),)], id="views"),
        pytest.param((3, 4, 6), [Permute((1, 0, 2)), Permute((0, 2, 1))], [(Permute((1, 2, 0)),)], id="permutations"),
        pytest.param(
            (3, 4, 6),
            [View((3, 4, 2, 3)), Permute((0, 2, 1, 3)), View((3, 2, 12))],
            [(View((3, 4, 2, 3)), Permute((0, 2, 1, 3)), View((3, 2, 12)))],
            id="heads",
        ),
        pytest.param(
            (B, T, 6), [Permute((1, 0, 2)), View((B * T, 6))], [(Permute((1, 0, 2)), View((B * T, 6)))], id="free sizes"
        ),
        pytest.param((B, 4, 6), [View((4 * B, 6)), View((B, 24))], [(View((B, 24)),)], id="free views"),
        pytest.param(
            (3, 4, 6),
            [Permute((2, 0, 1)), View((6, 12))],
            [(View((12, 6)), Permute((1, 0))), (Permute((2, 0, 1)), View((6, 12)))],
            id="either first, the one that copies nothing ahead",
        ),
        pytest.param((1, 1), [Permute((1, 0)), View(())], [(View(()),)], id="one value"),
    ],
)
def test_the_operators_that_are_left(
    shape: tuple[Size, ...], steps: list[Step], expected: list[tuple[Step, ...]]
) -> None:
    assert _followed(steps, shape).steps() == tuple(expected)
    for way in expected:
        assert torch.equal(_run(way, shape), _run(steps, shape))


def test_a_dimension_that_holds_a_part_of_an_atom_that_cannot_be_cut_there_is_refused() -> None:
    moved = _followed([Permute((1, 0))], (2, 3))
    assert moved.viewed((2, 3)).permuted((1, 0)) is None
    assert (
        _followed([Permute((1, 0)), View((B * T,)), View((2, B, sympy.Rational(1, 2) * T))], (B, T)).permuted((1, 0, 2))
        is None
    )
    assert Rearrangement.identity((0, 3)).viewed((3, 0)).permuted((1, 0)) is None


def test_products_and_quotients_of_sizes_are_numbers_where_they_can_be() -> None:
    assert (product([2, 3]), type(product([2, 3]))) == (6, int)
    assert product([]) == 1
    assert product([B, 4, T]) == 4 * B * T
    assert plain(sympy.Integer(4)) == 4
    assert plain((B + 1) * 2) == 2 * B + 2
    assert quotient(6, 3) == 2
    assert quotient(6, 4) is None
    assert quotient(4 * B * T, 2 * T) == 2 * B
    assert quotient(2 * B + 4, B + 2) == 2
    assert quotient(B, 2) is None
    assert quotient(B, T) is None
