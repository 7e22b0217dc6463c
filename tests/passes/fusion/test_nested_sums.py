"""Branches that hold sums of their own: both the inner sums and the branches around them are fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from passes.fusion.fuse_width import FuseWidth
from passes.graph.measures import operator_counts
from tests.passes.models import TOKENS, WIDTH, Function, graph_of, normal, randomised, relative_error, run, tokens

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
    graph = graph_of(randomised(Function(level, chains=chains, gain=normal(WIDTH))), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert record.skipped == ()
    assert operator_counts(fused)["aten.sum.dim_IntList"] == 1
    assert relative_error(fused(tokens(7)), graph(tokens(7))) < EXACT
