"""Branches that share their weights and read inputs of their own are one operator on more samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from passes.fusion.fuse_width import FuseWidth
from passes.graph.operators import CONVOLUTIONS, LINEAR, NORMS
from passes.graph.outputs import flat_outputs
from tests.passes.models import EXACT, WIDTH, Function, Mlp, graph_of, normal, randomised, relative_error, run, tokens

PRODUCTS = CONVOLUTIONS | {LINEAR}


def _towers(self: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([self.tower(left), self.tower(right)], 1)  # type: ignore[operator]


def _image_tower() -> nn.Module:
    return nn.Sequential(nn.Conv2d(WIDTH, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 4, 1))


@pytest.mark.parametrize(
    ("tower", "feed"),
    [
        pytest.param(Mlp, lambda seed: tokens(3, seed), id="norm and linears"),
        pytest.param(_image_tower, lambda seed: normal(3, WIDTH, 6, 6, seed=seed), id="convolutions and their norm"),
    ],
)
def test_one_encoder_of_two_inputs_runs_once_with_its_weights(
    tower: Callable[[], nn.Module], feed: Callable[[int], Tensor]
) -> None:
    inputs = feed(1), feed(2)
    graph = graph_of(randomised(Function(_towers, tower=tower())), *inputs)
    fused, record = run(graph, FuseWidth(), *inputs)
    assert len(record.matches) == 1
    for kinds in (PRODUCTS, NORMS):
        assert 2 * sum(n.target in kinds for n in fused.graph.nodes) == sum(
            n.target in kinds for n in graph.graph.nodes
        )
    assert {name for name, _ in fused.named_parameters()} == {name for name, _ in graph.named_parameters()}
    assert relative_error(flat_outputs(fused, inputs)[0], flat_outputs(graph, inputs)[0]) <= EXACT


def test_a_norm_of_each_branch_before_a_linear_of_all_is_folded_in_as_before() -> None:
    def forward(self: nn.Module, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([self.head(self.a(left)), self.head(self.b(right))], 1)  # type: ignore[operator]

    parts = {"a": nn.LayerNorm(WIDTH), "b": nn.LayerNorm(WIDTH), "head": nn.Linear(WIDTH, 3)}
    inputs = tokens(3, 1), tokens(3, 2)
    graph = graph_of(randomised(Function(forward, **parts)), *inputs)
    fused, record = run(graph, FuseWidth(), *inputs)
    assert len(record.matches) == 1
    assert relative_error(flat_outputs(fused, inputs)[0], flat_outputs(graph, inputs)[0]) <= EXACT
