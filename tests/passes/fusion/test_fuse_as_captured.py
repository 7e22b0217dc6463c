"""Branches that are side by side in a model as it was captured, whatever they read and whoever reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.fusion.fuse_width import FuseWidth
from passes.graph.operators import gemms
from tests.passes.models import (
    EXACT,
    WIDTH,
    Attention,
    Function,
    Mlp,
    fixed_graph_of,
    graph_of,
    normal,
    randomised,
    relative_error,
    run,
    tokens,
    wide_operators,
)


@pytest.mark.parametrize("join", [torch.cat, torch.stack])
def test_branches_that_are_put_side_by_side_are_fused_up_to_there(join: Callable[..., Tensor]) -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        y: Tensor = join([self.a(x), self.b(x), self.c(x)], 1).sum(1)
        return y

    graph = graph_of(randomised(Function(forward, a=Mlp(), b=Mlp(), c=Mlp())), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert sum(gemms(node) for node in fused.graph.nodes) == 2
    for batch in (1, 3):
        assert relative_error(fused(tokens(batch)), graph(tokens(batch))) < EXACT
    assert run(fused, FuseWidth())[1].matches == ()


def test_branches_that_read_different_values_are_fused_with_these_stacked() -> None:
    def forward(self: Function, x: Tensor, y: Tensor) -> Tensor:
        total: Tensor = x + self.a(x) + self.b(y)
        return total

    graph = graph_of(randomised(Function(forward, a=Mlp(), b=Mlp())), tokens(), tokens(seed=5))
    fused, record = run(graph, FuseWidth(), tokens(), tokens(seed=5))
    assert len(record.matches) == 1
    assert sum(gemms(node) for node in fused.graph.nodes) == 2
    for batch in (1, 3):
        inputs = tokens(batch), tokens(batch, seed=5)
        assert relative_error(fused(*inputs), graph(*inputs)) < EXACT


def test_a_branch_whose_output_is_read_elsewhere_too_is_cut_out_of_the_wide_one() -> None:
    def forward(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.a(x)
        return x + first + self.b(x) + self.c(x), torch.exp(first)

    model = Function(forward, a=Mlp(), b=Mlp(), c=Mlp())
    graph = fixed_graph_of(randomised(model), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert len(record.changed) == 3
    assert wide_operators(fused)["norm"] == 1
    for got, expected in zip(fused(tokens()), graph(tokens()), strict=True):
        assert relative_error(got, expected) < EXACT


def test_a_value_that_two_branches_share_is_computed_once() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, (WIDTH,))
        return x + self.a(normed) + self.b(normed)

    model = Function(forward, a=Mlp(nn.Identity()), b=Mlp(nn.Identity()))
    fused, record = run(fixed_graph_of(randomised(model), tokens()), FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert wide_operators(fused) == {"linear": 2, "attention": 0, "norm": 1}


def test_an_output_that_another_output_is_computed_from_is_summed_before_it() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return x + a + a * self.g + b + b * self.h

    gains = {name: normal(WIDTH, seed=number) for number, name in enumerate("gh")}
    graph = fixed_graph_of(randomised(Function(forward, a=Mlp(), b=Mlp(), **gains)), tokens())
    fused, record = run(graph, FuseWidth(), tokens())
    assert len(record.matches) == 1
    assert relative_error(fused(tokens()), graph(tokens())) < EXACT


def test_a_parallel_model_as_it_was_captured_is_fused_without_a_plan() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        return x + self.a(x) + self.b(x)

    model = Function(forward, a=Attention("unbind"), b=Mlp())
    fused, _ = run(fixed_graph_of(randomised(model), tokens()), FuseWidth(), tokens())
    assert wide_operators(fused) == {"linear": 3, "attention": 1, "norm": 1}


def test_a_write_in_place_stays() -> None:
    def forward(self: Function, x: Tensor) -> Tensor:
        hidden = self.a(x)
        hidden[:, 0] = 0
        y: Tensor = hidden + self.b(x)
        return y

    model = Function(forward, a=nn.Linear(WIDTH, WIDTH), b=nn.Linear(WIDTH, WIDTH))
    graph = fixed_graph_of(randomised(model), tokens())
    result, _ = run(graph, FuseWidth())
    assert relative_error(result(tokens()), graph(tokens())) < EXACT
