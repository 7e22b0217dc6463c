"""What the tests of passes over views share: small graphs, their operators, and what holds of every rewrite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from passes.runner import Pass
from tests.passes.models import Function, graph_of, normal, run, targets, text, wrong_metadata

Forward = Callable[..., Tensor]


def captured(forward: Callable[[Tensor], Tensor], *example: Tensor, tokens_free: bool = False) -> fx.GraphModule:
    """The graph of a function, its batch free, and its second dimension too where that is asked for."""
    free = {"dynamic": [{0: "batch", 1: "tokens"}]} if tokens_free else {}
    return graph_of(Function(lambda _, x: forward(x)).eval(), *example, **free)


def operators(graph: fx.GraphModule) -> list[str]:
    """The operators of a graph in order, sizes left out."""
    calls = [str(target) for target in targets(graph)]
    return [call.split(".")[1] if "." in call else call for call in calls if "sym_size" not in call]


def rewritten(step: Pass, forward: Forward, expected: list[str]) -> tuple[fx.GraphModule, fx.GraphModule]:
    """A graph, and what a pass makes of it: the operators that are expected, the same bits, nothing left to do."""
    graph = captured(forward, normal(3, 4, 6))
    made, record = run(graph, step, normal(3, 4, 6))
    assert operators(made) == expected
    assert record.matches
    for batch in (1, 2, 5):
        x = normal(batch, 4, 6)
        assert torch.equal(made(x), graph(x))
        assert wrong_metadata(made, x) == []
    again, second = run(made, step)
    assert second.matches == ()
    assert text(again) == text(made)
    return graph, made
