"""Networks whose branches several processes have, and what a process finds for the gradients of its own weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from passes.runner import run_passes
from passes.spread.order import restore_collectives
from passes.spread.spread_branches import SpreadBranches
from tests.passes.drawn import drawn
from tests.passes.models import Function, Levels, Mlp, Residual, normal, randomised, scheduled, tokens

CASES: dict[str, Callable[[], fx.GraphModule]] = {}


def _case(make: Callable[[], fx.GraphModule]) -> Callable[[], fx.GraphModule]:
    CASES[make.__name__.strip("_").replace("_", " ")] = make
    return make


def _stack(levels: Levels) -> fx.GraphModule:
    model = Residual([Mlp() for _ in range(6)], stem=nn.Linear(8, 8), head=nn.Linear(8, 8))
    return scheduled(_learning(drawn(randomised(model), tokens())), 6, levels)


def _learning(graph: fx.GraphModule) -> fx.GraphModule:
    for parameter in graph.parameters():
        parameter.requires_grad_(True)
    return graph


@_case
def _several_levels_in_sublayer_form() -> fx.GraphModule:
    return _stack([[[0], [1]], [[2], [3]], [[4]], [[5]]])


@_case
def _chains_of_unequal_length_and_ranks_without_one() -> fx.GraphModule:
    return _stack([[[0, 1], [2]], [[3], [4], [5]]])


@_case
def _a_first_level_on_one_rank_less_and_a_frozen_stem() -> fx.GraphModule:
    graph = _stack([[[0], [1]], [[2], [3], [4], [5]]])
    for name, parameter in graph.named_parameters():
        parameter.requires_grad_("stem" not in name)
    return graph


@_case
def _weights_and_conditions_that_branches_share() -> fx.GraphModule:
    def forward(self: Function, x: Tensor) -> Tensor:
        condition = x.mean(1, keepdim=True) @ self.condition
        first = x + (x @ self.shared).relu() @ self.a * condition + (x @ self.shared).sin() @ self.b
        return first + first.tanh() @ self.c + first.relu() @ self.shared + condition.relu() @ self.b

    names = ("condition", "shared", "a", "b", "c")
    model = Function(forward, **{name: normal(8, 8, seed=place) / 3 for place, name in enumerate(names)})
    return _learning(drawn(model, tokens()))


def gradients(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Of a loss that depends on every value, by the names of the weights; under "output" what the graph returns."""
    for parameter in graph.parameters():
        parameter.grad = None
    (output,) = torch.utils._pytree.tree_leaves(graph(tokens()))
    (output * normal(*output.shape, seed=9)).sin().sum().backward()
    found = {name: parameter.grad for name, parameter in graph.named_parameters() if parameter.grad is not None}
    return {**found, "output": output.detach()}


def find_gradients(folder: Path) -> None:
    """As one of several processes: write the gradients of each case that has a branch for each of them."""
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    group = distributed.group.WORLD.group_name
    found = {}
    for name, make in CASES.items():
        if size > 2 and name.startswith(("several", "weights")):  # two branches at most
            continue
        spread, _ = run_passes(make(), [SpreadBranches(rank, size, group, trains=True)])
        restore_collectives(spread)
        found[name] = gradients(spread)
    torch.save(found, folder / f"gradients{rank}.pt")
    distributed.destroy_process_group()
