"""Branches that hold sums of their own: both the inner sums and the branches around them are fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import operator_counts
from tests.passes.models import (
    TOKENS,
    WIDTH,
    Function,
    fixed_graph_of,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    tokens,
)

EXACT = 1e-10


def _two(module: type[nn.Linear]) -> nn.ModuleList:
    return nn.ModuleList([module(WIDTH, WIDTH), module(WIDTH, WIDTH)])


def test_branches_whose_inner_sums_compute_sizes_are_fused_once_these_are() -> None:
    """Sizes are equal where they are computed alike, in one node or in several."""

    def mixed(value: Tensor, heads: nn.Module, out: nn.Module) -> Tensor:
        split = heads(value).view(value.shape[0], TOKENS, -1, 2).permute(0, 2, 1, 3)
        mixed = torch.softmax(split @ split.transpose(-1, -2), -1) @ split
        return out(mixed.permute(0, 2, 1, 3).reshape(value.shape[0], TOKENS, -1))

    def branch(self: Function, x: Tensor, number: int) -> Tensor:
        pairs = zip(self.heads[number], self.outs[number], strict=True)
        return self.norms[number](sum((mixed(x, heads, out) for heads, out in pairs), x))

    def level(self: Function, x: Tensor) -> Tensor:
        return x + branch(self, x, 0) + branch(self, x, 1)

    model = Function(
        level,
        heads=nn.ModuleList([_two(nn.Linear), _two(nn.Linear)]),
        outs=nn.ModuleList([_two(nn.Linear), _two(nn.Linear)]),
        norms=nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]),
    )
    graph = graph_of(randomised(model), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert len(record.matches) == 3
    counts = operator_counts(fused)
    assert counts["aten.softmax.int"] == counts["aten.layer_norm.default"] == 1
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT
    _, second = run(fused, FuseWidth(), tokens())
    assert second.matches == ()


def test_values_of_chains_are_added_before_one_sum_over_the_branches() -> None:
    def chain(self: Function, x: Tensor, number: int) -> Tensor:
        for layer in self.chains[number]:
            x = x + torch.tanh(layer(x)) * self.gain
        return x

    def level(self: Function, x: Tensor) -> Tensor:
        return sum((chain(self, x, number) - x for number in range(3)), x)

    chains = nn.ModuleList([_two(nn.Linear) for _ in range(3)])
    graph = fixed_graph_of(randomised(Function(level, chains=chains, gain=normal(WIDTH))), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert operator_counts(fused)["aten.sum.dim_IntList"] == 1
    assert relative_error(fused(tokens()), graph(tokens())) < EXACT


def test_two_branches_that_are_computed_once_are_fused_with_a_third_that_is_like_them() -> None:
    """Tied terms read the conditioning that they share; what is left of them reads it alone, as the third its own."""

    def term(self: Function, x: Tensor, condition: Tensor, number: int) -> Tensor:
        return self.downs[number](torch.tanh(self.ups[number](x))) * self.gates[number](condition)

    def level(self: Function, x: Tensor, condition: Tensor) -> Tensor:
        return x + term(self, x, condition, 0) + term(self, x, condition, 1) + term(self, x, condition, 0)

    model = Function(level, ups=_two(nn.Linear), downs=_two(nn.Linear), gates=_two(nn.Linear))
    graph = fixed_graph_of(randomised(model), tokens(), normal(3, 1, WIDTH))
    fused, record = run(graph, FuseWidth(), tokens(), normal(3, 1, WIDTH))
    assert record.skipped == ()
    assert operator_counts(fused)["aten.tanh.default"] == 1
    inputs = tokens(), normal(3, 1, WIDTH)
    assert relative_error(fused(*inputs), graph(*inputs)) < EXACT


def test_a_branch_that_stays_for_another_reader_is_not_computed_twice() -> None:
    def level(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        part = 0.7 * self.a(x) - 0.5 * x
        return x + part + (torch.tanh(self.b(x)) - 0.5 * x), part

    model = Function(level, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))
    graph = fixed_graph_of(randomised(model), tokens())
    fused, _ = run(graph, FuseWidth(), tokens())
    assert operator_counts(fused)["aten.linear.default"] <= 2
    for actual, expected in zip(fused(tokens()), graph(tokens()), strict=True):
        assert relative_error(actual, expected) < EXACT
