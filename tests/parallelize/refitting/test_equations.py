"""Rows are held while they are fewer than columns; what is solved is the same."""

from __future__ import annotations

import pytest
import torch

from parallelize.data.buffer import Buffer
from parallelize.refitting.equations import Equations
from parallelize.refitting.moments import Moments
from parallelize.refitting.rows import Rows
from tests.parallelize.refitting.regressions import CPU, data, gram, moments_of, solved


@pytest.mark.parametrize(("count", "form"), [(5, Rows), (19, Rows), (20, Moments), (50, Moments)])
def test_the_smaller_form_is_taken(count: int, form: type[object]) -> None:
    features, targets = data(count, 20, 2)
    equations = Equations(20, 2, CPU, Buffer())
    for part, aim in zip(features.split(6), targets.split(6), strict=True):
        equations.add(part, aim)
    assert type(equations.columns(slice(None))) is form
    assert equations.target == pytest.approx(float(targets.square().sum()))
    torch.testing.assert_close(equations.squares, features.square().sum(0))
    expected = solved(moments_of(features, targets), 0.1)
    torch.testing.assert_close(solved(equations.columns(slice(None)), 0.1), expected, rtol=1e-6, atol=1e-9)


def test_rows_that_became_moments_are_those_of_all_rows_to_the_bit() -> None:
    features, targets = (value.float() for value in data(50, 20, 2))
    equations, direct = Equations(20, 2, CPU, Buffer()), Moments(20, 2, CPU)
    for part, aim in zip(features.split(6), targets.split(6), strict=True):
        equations.add(part, aim)
        direct.add(part, aim)
    found = equations.columns(slice(None))
    assert isinstance(found, Moments)
    assert torch.equal(gram(found), gram(direct))


def test_of_few_columns_there_are_more_rows() -> None:
    features, targets = data(15, 20, 2)
    equations = Equations(20, 2, CPU, Buffer())
    equations.add(features, targets)
    few = equations.columns(slice(-4, None))
    assert type(few) is Moments
    assert type(equations.columns(slice(1, None))) is Rows
    torch.testing.assert_close(gram(few), features[:, -4:].T @ features[:, -4:])


def test_nothing_is_held_any_more_when_nobody_asks() -> None:
    buffer = Buffer()
    equations = Equations(20, 2, CPU, buffer)
    for _ in range(5):
        equations.add(*data(7, 20, 2))
    found = solved(equations.columns(slice(None)), 0.1)
    assert buffer.held[CPU] == (20 * 20 + 20 * 2) * 8
    del equations, found
    assert buffer.held[CPU] == 0
