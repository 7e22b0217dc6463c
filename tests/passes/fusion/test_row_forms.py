"""Rows joined or split: operators compute in the form that needs the fewest views around them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.move_views import MoveViews
from passes.fusion.row_forms import Rows, join_rows
from passes.graph.editing import finish
from tests.passes.drawn import drawn
from tests.passes.models import normal, relative_error, run, text, wrong_metadata
from tests.passes.views import captured, operators

WEIGHTS = [normal(2, 6, 6, seed=seed) for seed in range(3)]


def _region(x: Tensor) -> Tensor:
    """Three products with parameters of two branches, which want rows joined, between sums that take them split."""
    state = x[None] * 2
    for weight in WEIGHTS:
        rows = F.layer_norm(state, (6,)).flatten(1, 2)
        state = state + torch.bmm(rows.expand(2, -1, -1), weight).unflatten(1, (x.shape[0], 4))
    return state.sum(0)


def test_rows_are_joined_in_a_whole_region() -> None:
    graph = captured(_region, normal(3, 4, 6))
    moved, record = run(graph, MoveViews(), normal(3, 4, 6))
    views = {"flatten", "unflatten", "reshape"}
    assert sum(name in views for name in operators(graph)) == 6
    assert sum(name in views for name in operators(moved)) == 2
    assert any("rows joined" in match for match in record.matches)
    for batch in (1, 2, 5):
        x = normal(batch, 4, 6)
        assert relative_error(moved(x), graph(x)) < 1e-12
        assert wrong_metadata(moved, x) == []
    again, second = run(moved, MoveViews())
    assert second.matches == ()
    assert text(again) == text(moved)


VIEWS = {"flatten", "unflatten", "reshape", "view"}


def _joined(forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """What the choice of forms makes of a graph, its numbers and shapes checked, and what it says."""
    graph = drawn(forward, x)
    record = join_rows(graph)
    made = finish(graph)
    assert relative_error(made(x), forward(x)) < 1e-14
    assert wrong_metadata(made, x) == []
    assert join_rows(made).matches == ()
    return made, record.matches


X = normal(3, 4, 6)


# with the operators that are left
CHOICES: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "a function between views there and back": (
        lambda x: x.view(12, 6).sin().view(3, 4, 6).cos(),
        ["sin", "cos"],
    ),
    "a norm between views": (
        lambda x: F.layer_norm(x.flatten(0, 1), [6]).unflatten(0, (3, 4)).exp(),
        ["layer_norm", "exp"],
    ),
    "a sum with a value of the other form": (
        lambda x: (x.view(12, 6).sin().view(3, 4, 6) + x).exp(),
        ["sin", "add", "exp"],
    ),
    "a sum of branches ahead of the rows": (
        lambda x: (x * x.new_ones(2, 1, 1, 1)).flatten(1, 2).sin().sum(0).unflatten(0, (3, 4)).cos(),
        ["new_ones", "mul", "sin", "sum", "cos"],
    ),
    # of products with rows joined one view stays on each side
    "between products": (
        lambda x: (x.view(12, 6) @ WEIGHTS[0][0]).view(3, 4, 6).sin().view(12, 6) @ WEIGHTS[1][0],
        ["view", "select", "matmul", "sin", "select", "matmul"],
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_operators_compute_in_the_form_that_needs_the_fewest_views(name: str) -> None:
    forward, expected = CHOICES[name]
    made, matches = _joined(forward, X)
    assert operators(made) == expected
    assert matches


STAY: dict[str, Callable[[Tensor], Tensor]] = {
    "no fewer views": lambda x: x.view(12, 6).sin() @ WEIGHTS[0][0],
    "a softmax over the rows": lambda x: x.view(12, 6).softmax(0).view(3, 4, 6),
    "a sum over the rows": lambda x: x.view(12, 6).sum(0),
    "a norm of whole samples": lambda x: F.layer_norm(x.view(3, 24), [24]).view(3, 4, 6),
}


@pytest.mark.parametrize("name", STAY)
def test_what_needs_its_form_keeps_it(name: str) -> None:
    graph = drawn(STAY[name], X)
    before = text(graph)
    assert join_rows(graph).matches == ()
    assert text(graph) == before


def test_what_is_done_is_told_with_the_rows() -> None:
    _, (joined,) = _joined(CHOICES["between products"][0], X)
    assert joined == "sin on 3 x 4 rows joined"
    _, (split,) = _joined(CHOICES["a function between views there and back"][0], X)
    assert split == "sin on rows split into 3 x 4"


def test_a_shape_has_rows_in_one_form_or_none() -> None:
    rows = Rows(1, (3, 4))
    assert [rows.form(shape) for shape in ((3, 4, 6), (2, 3, 4, 6), (12, 6), (2, 12, 6))] == [
        "split",
        "split",
        "joined",
        "joined",
    ]
    assert [rows.form(shape) for shape in ((4, 3, 6), (6,), (24, 6))] == [None, None, None]
    assert rows.other((2, 3, 4, 6)) == (2, 12, 6)
    assert rows.other((2, 12, 6)) == (2, 3, 4, 6)


def test_rows_that_do_not_lie_as_one_are_not_joined_for_one_view() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.transpose(0, 1).sin().reshape(12, 6).cos()

    graph = drawn(forward, X)
    join_rows(graph)
    assert relative_error(finish(graph)(X), forward(X)) == 0
