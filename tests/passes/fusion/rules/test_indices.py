"""Values picked and put at places that a tensor names: each branch picks of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.operators import aten
from tests.passes.fusion.rules.laid import Common, Forward, Given, Own, Parameter, check, refusal
from tests.passes.models import normal
from tests.sampled import sampled

PLACES, TWO = torch.tensor([2, 0]), torch.tensor([[2, 0], [1, 1]])
X = Own((2, 3, 4))
ORDER = Own((2, 3, 4), lambda x: x.argsort(1))
FEW = Own((2, 2, 4), lambda x: (x > 0).long())

CASES: dict[str, tuple[Forward, tuple[Given, ...]]] = {
    "one dimension": (lambda x, i: x[:, i], (X, Common(PLACES))),
    "the first": (lambda x, i: x[i.remainder(2)], (X, Common(PLACES))),
    "the last by a table": (lambda x, i: x[..., i], (X, Common(TWO))),
    "two neighbours": (lambda x, i: x[:, i, i], (X, Common(PLACES))),
    "two that are apart": (lambda x, i: x[i.remainder(2), :, i], (X, Common(PLACES))),
    "a number and a dimension": (lambda x, i: x[:, :, i, None], (X, Common(PLACES))),
    "gather": (lambda x, i: x.gather(1, i), (X, ORDER)),
    "gather of fewer": (lambda x, i: x.gather(1, i), (X, FEW)),
    "gather at shared places": (lambda x, i: x.gather(1, i), (X, Common(TWO[:, :, None].expand(2, 2, 4)))),
    "gather of a shared value": (lambda g, i: g.gather(1, i), (Common(normal(2, 3, 4)), ORDER)),
    "scatter": (lambda x, i: x.scatter(1, i, x.sin()), (X, ORDER)),
    "scatter of a number": (lambda x, i: x.scatter(1, i, 0.5), (X, FEW)),
    "scatter_add": (lambda x, i: x.scatter_add(1, i, x), (X, ORDER)),
    "scatter_reduce": (lambda x, i: x.scatter_reduce(1, i, x, "amax"), (X, ORDER)),
    "index_add": (lambda x, y, i: x.index_add(1, i, y), (X, Own((2, 2, 4)), Common(PLACES))),
    "index_copy of a shared value": (
        lambda x, g, i: x.index_copy(-1, i, g),
        (X, Common(normal(2, 3, 2)), Common(PLACES)),
    ),
    "index_fill": (lambda x, i: x.index_fill(1, i, 2.0), (X, Common(PLACES))),
    "a slice put in": (lambda x, y: x.slice_scatter(y, 1, 1, 3), (X, Own((2, 2, 4)))),
    "tables at shared places": (lambda w, i: F.embedding(i, w), (Parameter((5, 4)), Common(TWO))),
    "tables at places of their own": (F.embedding, (FEW, Parameter((5, 3)))),
    "a shared table": (F.embedding, (FEW, Common(normal(5, 3)))),
}


@pytest.mark.parametrize("name", sampled([*CASES], 3))
def test_each_branch_has_its_value_wherever_the_branches_lie(name: str) -> None:
    forward, given = CASES[name]
    check(forward, *given)


def test_places_that_differ_and_masks_are_refused_by_name() -> None:
    def picked(x: Tensor, own: Tensor) -> Tensor:
        return aten.index.Tensor(x, [None, own])

    own = Own((2,), lambda x: x.argsort())
    stored = Parameter((2,), lambda x: (x > 0).long() + torch.arange(2))
    for each in (own, stored):
        reason = refusal(picked, X, each)
        assert reason.startswith("index indexes by ")
        assert reason.endswith(", which differs between the branches")
    mask = refusal(lambda x, m: aten.index.Tensor(x, [None, m]), X, Common(torch.tensor([True, False, True])))
    assert mask.startswith("index indexes by the mask ")
    assert mask.endswith(", whose size only the data tell")


def test_a_part_that_is_picked_in_every_dimension_is_refused() -> None:
    reason = refusal(lambda x, i: x.gather(0, i), X, Own((1, 2, 3), lambda x: (x > 0).long()))
    assert reason.startswith("gather (aten.gather.default) picks from only a part of ")


def test_a_table_that_is_computed_is_refused() -> None:
    reason = refusal(lambda x, i: F.embedding(i, x), Own((5, 4)), Common(TWO))
    assert reason.endswith("which is no parameter")
