"""The stacks of small networks, and what the tests of stacks ask about them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from passes.stacks.find import Stack, Stacks, find_stacks
from tests.passes.models import WIDTH, graph_of, randomised, tokens


def stacks_of(module: nn.Module, *example: Tensor) -> Stacks:
    return find_stacks(graph_of(randomised(module), *(example or (tokens(),)), dynamic=None))


def only_stack(found: Stacks) -> Stack:
    assert found.refused == ()
    (stack,) = found.stacks
    return stack


def targets_of(nodes: Sequence[fx.Node]) -> list[object]:
    return [node.target for node in nodes]


def named_linears(count: int) -> dict[str, nn.Module]:
    return {name: nn.Linear(WIDTH, WIDTH) for name in "abcdefgh"[:count]}
