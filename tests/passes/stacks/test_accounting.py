"""Terms found and refused are the residual sums that are there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes.stacks.accounting import unaccounted
from passes.stacks.find import Stacks, find_stacks
from tests.passes.models import (
    WIDTH,
    Function,
    Mlp,
    Residual,
    fixed_graph_of,
    mlps,
    randomised,
    tokens,
    vision,
    written_out_gelu,
)


def _linears(count: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in "abcdefgh"[:count]}


def _tapped(self: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x + self.a(x)
    inner = torch.tanh(self.b(x))
    x = x - self.c(inner)
    return x + self.d(x), torch.exp(inner)


def _earlier_state(self: Function, x: Tensor) -> Tensor:
    first = x + self.a(x)
    second = first - self.b(first)
    y: Tensor = torch.lerp(second, self.c(second * first), 0.5)
    return y


def _no_parameters(self: Function, x: Tensor) -> Tensor:
    x = x + self.a(x)
    return x - x.roll(1, 1)


def _pooled(self: Function, x: Tensor) -> Tensor:
    for name in "ab":
        normed = x.tanh()
        x = x + (normed.roll(1, 1) - normed)
        x = x + getattr(self, name)(written_out_gelu(x))
    return written_out_gelu(x)


@pytest.mark.parametrize("forward", [_tapped, _earlier_state, _no_parameters, _pooled])
def test_every_residual_sum_is_a_term_or_refused(forward: Callable[..., object]) -> None:
    assert unaccounted(fixed_graph_of(randomised(Function(forward, **_linears(4))), tokens())) == ()


def test_a_term_that_holds_terms_accounts_for_them() -> None:
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), Residual([Mlp(), Mlp()]))
    assert unaccounted(fixed_graph_of(randomised(Residual([inner, Mlp(), Mlp(), Mlp()])), tokens())) == ()


@pytest.mark.parametrize("graph", [vision()[1], mlps()[1]])
def test_a_sum_that_is_left_out_is_named(graph: torch.fx.GraphModule) -> None:
    found = find_stacks(graph)
    names = [term.add.name for stack in found.stacks for term in stack.terms]
    assert unaccounted(graph, found) == ()
    assert list(unaccounted(graph, Stacks(()))) == names
