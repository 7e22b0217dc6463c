"""Branches that meet in a concatenation or a stack: they stay in one tensor, and are cut out where they must be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from passes.fusion.gathers import fuse_gather, is_gather
from passes.graph.dataflow import positions
from passes.graph.editing import finish
from passes.graph.operators import GETITEM, LINEAR, aten
from passes.runner import PassResult
from tests.passes.drawn import calls, drawn
from tests.passes.models import Mlp, randomised, relative_error, text, tokens

A, B, C = (randomised(Mlp(nn.Identity()), seed) for seed in range(3))
WIDER = randomised(Mlp(nn.Identity(), hidden=20), 4)

Forward = Callable[[Tensor], Tensor]


def _fused(forward: Forward, x: Tensor, *, dry: bool = False) -> tuple[fx.GraphModule, PassResult]:
    graph = drawn(forward, x)
    (root,) = [node for node in graph.graph.nodes if is_gather(node)]
    record = fuse_gather(graph, root, positions(graph.graph), dry=dry)
    return finish(graph), record


# with how many linears run, and whether the branches are cut out of the wide value
JOINS: dict[str, tuple[Forward, int, bool]] = {
    "all in a row": (lambda x: torch.cat([A(x), B(x), C(x)], -1), 2, False),
    "in a row beside another": (lambda x: torch.cat([x, A(x), B(x)], 1), 2, False),
    "along the samples": (lambda x: torch.cat([A(x), B(x)]), 2, False),
    "another between them": (lambda x: torch.cat([A(x), x, B(x)], -1), 2, True),
    "in another order": (lambda x: torch.cat([B(x), A(x)], -1), 2, False),
    "one of them twice": (lambda x: torch.cat([(a := A(x)), B(x), a], -1), 2, True),
    "stacked": (lambda x: torch.stack([A(x), B(x)], 1), 2, True),
    "one of another width": (lambda x: torch.cat([A(x), B(x), WIDER(x)], -1), 4, False),
}


@pytest.mark.parametrize("name", JOINS)
def test_branches_are_computed_once_up_to_where_they_meet(name: str) -> None:
    forward, linears, is_cut = JOINS[name]
    fused, record = _fused(forward, tokens())
    assert len(record.matches) == 1
    # of private hidden values a batched product
    assert len(calls(fused, LINEAR, aten.bmm.default, aten.baddbmm.default)) == linears
    assert bool(calls(fused, aten.unbind.int)) == is_cut == bool(calls(fused, GETITEM))
    assert relative_error(fused(tokens()), forward(tokens())) < 1e-12


def test_a_dry_run_says_what_it_would_do_and_does_nothing() -> None:
    before = text(finish(drawn(JOINS["all in a row"][0], tokens())))
    graph, record = _fused(JOINS["all in a row"][0], tokens(), dry=True)
    assert text(graph) == before
    assert record.matches == ("cat: 3 x linear_1",)
    assert record.present == record.changed == ("linear_1", "linear_3", "linear_5")


def test_what_stands_alone_or_is_no_single_tensor_is_no_branch() -> None:
    for forward in (lambda x: torch.cat([A(x), x], -1), lambda x: torch.cat([A(x), WIDER(x)], -1)):
        _, record = _fused(forward, tokens())
        assert (record.matches, record.skipped) == ((), ())


def test_a_stack_whose_values_are_added_up_is_a_sum_and_no_gather() -> None:
    graph = drawn(lambda x: torch.stack([A(x), B(x)]).sum(0) + torch.cat([x, x]).sum(), tokens())
    assert [is_gather(node) for node in calls(graph, aten.stack.default, aten.cat.default)] == [False, True]
