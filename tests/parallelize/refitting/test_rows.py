"""The dual form has the solution of the normal equations, to rounding, whatever blocks and files it lies in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from parallelize.data.buffer import Buffer
from parallelize.refitting import blocks, rows
from parallelize.refitting.moments import Moments
from parallelize.refitting.ridge import RIDGES, choose, solver
from parallelize.refitting.rows import Rows
from tests.parallelize.refitting.regressions import (
    CPU,
    collected,
    cross,
    data,
    given,
    gram,
    moments_of,
    solved,
    textbook,
)


def _rows(features: Tensor, targets: Tensor, batch: int = 0, bound: int = 2**31) -> Rows:
    made = Rows(features.shape[1], targets.shape[1], CPU, Buffer(bound))
    for part, aim in zip(features.split(batch or 10**6), targets.split(batch or 10**6), strict=True):
        made.add(part, aim)
    return made


@settings(deadline=None, max_examples=40)
@drawn(
    count=st.integers(2, 60),
    columns=st.integers(1, 60),
    ridge=st.sampled_from(RIDGES[2:]),
    constant=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_solution_is_that_of_the_normal_equations(
    count: int, columns: int, ridge: float, constant: bool, seed: int
) -> None:
    """Up to the penalty of 1e-12 that keeps moments positive, which a constant meets there as well.

    A single row is explained by the constant alone; moments may need a larger penalty there.
    """
    features, targets = data(count, columns, 3, seed)
    targets = targets + 100
    dual, primal = (solved(collected(form, features, targets, 7), ridge, constant=constant) for form in (Rows, Moments))
    fresh, _ = data(20, columns, 3, seed + 1)
    size = float((fresh @ primal).abs().max()) + 1
    torch.testing.assert_close(fresh @ dual / size, fresh @ primal / size, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ridge", RIDGES)
def test_the_solution_is_that_of_the_textbook_for_every_ridge(ridge: float) -> None:
    features, targets = data(30, 50, 2)
    dual, expected = solved(_rows(features, targets), ridge), textbook(features, targets, ridge)
    torch.testing.assert_close(features @ dual, features @ expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("bound", [0, 2**31], ids=["file", "memory"])
@pytest.mark.parametrize("tile", [3, 8, 64])
def test_neither_blocks_nor_files_change_it(tile: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = data(30, 50, 2)
    held_out = data(25, 50, 2, seed=1)
    expected = solved(moments_of(features, targets), 0.01)
    lack = moments_of(*held_out).lack(given(expected))
    for module in (blocks, rows):
        monkeypatch.setattr(module, "TILE", tile)
    made = _rows(features, targets, 7, bound)
    found = solver(made)(0.01)
    assert made.buffer.in_file > 0 or bound
    torch.testing.assert_close(found.part(0, 50), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.part(5, 31), expected[5:31], rtol=1e-7, atol=1e-9)
    for judging in (_rows(*held_out, 9, bound), _rows(*held_out).moments()):
        assert judging.lack(found) == pytest.approx(lack, rel=1e-7)


@pytest.mark.parametrize("constant", [True, False])
def test_held_out_rows_are_compared_alike_in_every_form(constant: bool) -> None:
    features, targets = data(30, 50, 2)
    other, aims = data(25, 50, 2, seed=1)
    for fit in (_rows(features, targets), moments_of(features, targets)):
        found = solver(fit, constant=constant)(0.1)
        direct = float((other @ found.part(0, 50) - aims).square().sum())
        assert [judging.lack(found) for judging in (_rows(other, aims, 4), moments_of(other, aims))] == pytest.approx(
            [direct, direct], rel=1e-7
        )


def test_the_same_ridge_is_chosen_from_rows_as_from_moments() -> None:
    features, targets = data(70, 50, 2)
    fit, judging = (features[:40], targets[:40]), (features[40:], targets[40:])
    theirs = choose(moments_of(*fit), moments_of(*judging))
    for ours in (
        choose(_rows(*fit), _rows(*judging)),
        choose(_rows(*fit), moments_of(*judging)),
        choose(moments_of(*fit), _rows(*judging)),
    ):
        assert ours.ridge == theirs.ridge
        assert ours.error == pytest.approx(theirs.error, rel=1e-6)


@pytest.mark.parametrize("chosen", [slice(-4, None), slice(3, 17), slice(None, -1), slice(None)])
@pytest.mark.parametrize("tile", [5, 64])
def test_some_columns_of_rows_are_those_features(chosen: slice, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TILE", tile)
    features, targets = data(12, 20, 2)
    part, alone = _rows(features, targets, 5).columns(chosen), _rows(features[:, chosen], targets)
    assert torch.equal(part.squares, alone.squares) or torch.allclose(part.squares, alone.squares)
    torch.testing.assert_close(solved(part, 0.1, constant=False), solved(alone, 0.1, constant=False))
    inner, expected = part.columns(slice(1, 3)).moments(), moments_of(features[:, chosen][:, 1:3], targets)
    torch.testing.assert_close(gram(inner), gram(expected))
    torch.testing.assert_close(cross(inner), cross(expected))
    assert (inner.rows, inner.target) == (expected.rows, pytest.approx(expected.target))


def test_rows_are_held_as_they_came_and_solved_in_float64() -> None:
    features, targets = (value.float() for value in data(20, 50, 2))
    made = _rows(features, targets)
    assert made.part(0, 3, 9).dtype == torch.float32
    torch.testing.assert_close(
        solved(made, 1e-5), solved(moments_of(features.double(), targets.double()), 1e-5), rtol=1e-5, atol=1e-7
    )
