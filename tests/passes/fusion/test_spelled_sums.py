"""Networks whose branches are side by side already: however the sum is spelled, N branches cost what two cost."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from paraformer.model import VisionParaFormer
from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import critical_gemms, operator_counts
from passes.runner import PassRecord
from tests.passes.models import (
    SMALL,
    WIDTH,
    Function,
    Mlp,
    fixed_graph_of,
    graph_of,
    images,
    normal,
    randomised,
    relative_error,
    run,
    text,
    tokens,
    wide_operators,
    wrong_metadata,
)
from tests.sampled import sampled

EXACT = 1e-10
Spelling = Callable[[Tensor, Sequence[Tensor]], Tensor]


def _added(values: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, values)


def _weights(count: int) -> list[float]:
    return [2 * (number + 1) / (count * (count + 1)) for number in range(count)]


SPELLINGS: dict[str, Spelling] = {
    "the first as it is": lambda x, s: _added([s[0], *(y - x for y in s[1:])]),
    "the last as it is": lambda x, s: _added([*(y - x for y in s[:-1]), s[-1]]),
    "each a difference": lambda x, s: x + _added([y - x for y in s]),
    "each a negative difference": lambda x, s: x - _added([x - y for y in s]),
    "x several times": lambda x, s: _added(s) - (len(s) - 1) * x,
    "alpha": lambda x, s: torch.sub(_added(s), x, alpha=len(s) - 1),
    "without x": lambda x, s: _added([y - x for y in s]),
    "the mean": lambda x, s: _added(s) / len(s),
    "a weighted mean": lambda x, s: _added([weight * y for weight, y in zip(_weights(len(s)), s, strict=True)]),
    "a stack": lambda x, s: torch.stack(list(s)).sum(0) - (len(s) - 1) * x,
    "the mean of a stack": lambda x, s: torch.stack(list(s), 1).mean(1),
    "copies": lambda x, s: x + _added([(y - x).clone().contiguous() for y in s]),
}


class Branches(nn.Module):
    """Branches of MLP terms on one state, added up in some spelling."""

    def __init__(self, spelling: Spelling, branches: int, terms: int) -> None:
        super().__init__()
        self.spelling = spelling
        self.branches = nn.ModuleList(nn.ModuleList(Mlp() for _ in range(terms)) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.exp(x)
        states = []
        for terms in self.branches:
            state = x
            for term in terms:  # type: ignore[attr-defined]
                state = state + term(state)
            states.append(state)
        return torch.sin(self.spelling(x, states))


@functools.cache
def _fused(spelling: Spelling, branches: int, terms: int) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    capture = graph_of if terms == 2 else fixed_graph_of
    graph = capture(randomised(Branches(spelling, branches, terms)), tokens())
    return graph, *run(graph, FuseWidth(), tokens())


@pytest.mark.parametrize("spelling", sampled(SPELLINGS, 3))
def test_chains_of_every_spelling_are_one_chain_with_the_same_numbers(spelling: Spelling) -> None:
    graph, fused, record = _fused(spelling, 3, 2)
    assert record.skipped == ()
    assert [line.partition(": ")[2].split(" x ")[0] for line in record.matches] == ["3"]
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT
    assert wrong_metadata(fused, tokens(7)) == []
    again, second = run(fused, FuseWidth())
    assert second.matches == ()
    assert text(again) == text(fused)


@pytest.mark.parametrize("spelling", sampled(SPELLINGS, 6))
def test_three_chains_cost_the_operators_of_two(spelling: Spelling) -> None:
    assert operator_counts(_fused(spelling, 3, 2)[1]) == operator_counts(_fused(spelling, 2, 2)[1])


@pytest.mark.parametrize("spelling", sampled(SPELLINGS, 4))
def test_one_term_a_branch_becomes_one_wide_term_in_every_spelling(spelling: Spelling) -> None:
    graph, fused, record = _fused(spelling, 4, 1)
    assert record.skipped == ()
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}
    assert relative_error(fused(tokens()), graph(tokens())) < EXACT


def test_branches_of_three_terms_are_expanded_to_their_first_state() -> None:
    graph, fused, record = _fused(SPELLINGS["the first as it is"], 3, 3)
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert critical_gemms(fused) == critical_gemms(graph)
    assert relative_error(fused(tokens()), graph(tokens())) < EXACT


@functools.cache
def _para_former(branches: int, blocks: int) -> tuple[fx.GraphModule, fx.GraphModule, PassRecord]:
    config = replace(SMALL, depth=branches * blocks, branches=branches, mode="para-former")
    graph = graph_of(randomised(VisionParaFormer(config)), images())
    return graph, *run(graph, FuseWidth(), images())


@pytest.mark.slow
@pytest.mark.parametrize(("branches", "blocks"), [(3, 2), (3, 1), (8, 1), (16, 1)])
def test_a_para_former_costs_what_one_of_two_branches_costs(branches: int, blocks: int) -> None:
    graph, fused, record = _para_former(branches, blocks)
    _, two, _ = _para_former(2, blocks)
    one, _, _ = _para_former(1, blocks)
    assert record.skipped == ()
    assert len(record.matches) == 1
    assert operator_counts(fused) == operator_counts(two)
    assert critical_gemms(fused) == critical_gemms(one)
    assert operator_counts(fused)["aten.sum.dim_IntList"] == 1
    for kind in ("attention", "norm"):
        assert wide_operators(fused)[kind] == wide_operators(one)[kind]
    assert relative_error(fused(images(7)), graph(images(7))) < EXACT


def test_a_para_former_of_one_branch_is_serial() -> None:
    graph, same, record = _para_former(1, 2)
    assert record.matches == record.skipped == ()
    assert text(same) == text(graph)


def test_branches_of_unlike_factors_are_one_group_and_their_factors_lie_in_the_weights() -> None:
    def level(self: Function, x: Tensor) -> Tensor:
        return x - 0.3 * self.a(x) + self.b(x) / 4 + self.c(x) * self.number

    parts = {name: nn.Linear(WIDTH, WIDTH) for name in "abc"}
    graph = graph_of(randomised(Function(level, **parts, number=normal(1))), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert operator_counts(fused) == {"aten.linear.default": 1, "aten.add.Tensor": 1}
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT


def test_factors_of_branches_without_a_product_at_their_end_multiply_before_they_are_added() -> None:
    def level(self: Function, x: Tensor) -> Tensor:
        return x - 0.3 * torch.tanh(self.a(x)) + 0.5 * torch.tanh(self.b(x))

    graph = graph_of(randomised(Function(level, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert operator_counts(fused)["aten.tanh.default"] == 1
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT


def test_a_value_that_is_added_twice_counts_twice() -> None:
    def level(self: Function, x: Tensor) -> Tensor:
        first = self.a(x)
        return x + first + self.b(x) + first

    graph = graph_of(randomised(Function(level, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert operator_counts(fused)["aten.linear.default"] == 1
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT


def test_levels_below_a_long_skip_are_fused() -> None:
    def network(self: Function, x: Tensor) -> Tensor:
        y = x + self.a(x) + self.b(x)
        z = y + self.c(y) + self.d(y)
        return z + x

    graph = graph_of(randomised(Function(network, **{name: Mlp() for name in "abcd"})), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert len(record.matches) == 2
    assert wide_operators(fused) == {"linear": 4, "attention": 0, "norm": 2}
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT
