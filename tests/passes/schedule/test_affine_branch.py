"""The affine part of a level: the plain norm that it reads, and the branch that is added to the state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.graph.editing import finish
from passes.graph.operators import LAYER_NORM
from passes.schedule.out_projection import add_branch, level_features, plain_norm
from tests.passes.eager import after_levels
from tests.passes.models import (
    WIDTH,
    GatedMlp,
    Levels,
    Mlp,
    Residual,
    fixed_graph_of,
    mlps,
    normal,
    randomised,
    relative_error,
    tokens,
    vision,
    wrong_metadata,
)
from tests.passes.schedule.levels import OneConvolution, beside, rewritten_levels


def test_the_norm_of_a_level_is_one_of_its_state() -> None:
    _, levels = rewritten_levels(vision()[1], 8, [[[0], [2]], [[1], [3]]])
    for level in levels:
        norm = level_features(level).source
        assert norm.target == LAYER_NORM
        assert norm.args[0] is level.entry


def test_a_level_whose_terms_have_no_norm_reads_the_state() -> None:
    graph = fixed_graph_of(randomised(Residual([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])), tokens())
    _, levels = rewritten_levels(graph, 2, [[[0], [1]]])
    assert level_features(levels[0]).source is levels[0].entry


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (lambda: Mlp(nn.LayerNorm(WIDTH, eps=0.3)), lambda x: F.layer_norm(x, (WIDTH,), eps=0.3)),
        (lambda: Mlp(nn.LayerNorm(WIDTH)), lambda x: F.layer_norm(x, (WIDTH,))),
        (GatedMlp, lambda x: F.rms_norm(x, (WIDTH,), eps=1e-6)),
        (lambda: Mlp(nn.RMSNorm(WIDTH, eps=0.3)), lambda x: F.rms_norm(x, (WIDTH,), eps=0.3)),
        (lambda: Mlp(nn.RMSNorm(WIDTH)), lambda x: F.rms_norm(x, (WIDTH,))),
    ],
)
def test_a_plain_norm_is_the_norm_without_gain_and_shift(term: type[nn.Module], expected: type[Tensor]) -> None:
    graph = fixed_graph_of(randomised(Residual([term(), term()])), tokens())
    module, levels = rewritten_levels(graph, 2, [[[0], [1]]])
    norm = level_features(levels[0]).source
    node = plain_norm(module, norm)
    (output,) = module.graph.find_nodes(op="output")
    output.args = (node,)
    module.recompile()
    assert relative_error(module(tokens()), expected(tokens())) < 1e-14
    assert str(node.meta["val"].shape) == str(norm.meta["val"].shape)


@pytest.mark.parametrize("levels", [[[[0], [1]], [[2], [3]]], [[[0, 1], [2, 3]]], [[[0]], [[1, 2, 3]]]])
def test_an_affine_branch_is_added_to_the_state_after_its_level(levels: Levels) -> None:
    model, graph = mlps(4)
    module, sites = rewritten_levels(graph, 4, levels)
    weight, bias = normal(WIDTH, WIDTH, seed=3), normal(WIDTH, seed=4)
    total = add_branch(module, sites[0].sum, sites[0].entry, weight, bias, -1)
    with torch.no_grad():
        state = after_levels(model.steps(), levels[:1], tokens()) + tokens() @ weight.T + bias
        expected = after_levels(model.steps(), levels[1:], state)
    assert str(total.meta["val"].shape) == str(sites[0].entry.meta["val"].shape)
    finished = finish(module)
    assert relative_error(finished(tokens()), expected) < 1e-12
    assert wrong_metadata(finished, tokens(7)) == []


def test_an_affine_branch_behind_the_last_level_reaches_the_outputs() -> None:
    model, graph = mlps(2)
    module, sites = rewritten_levels(graph, 2, [[[0], [1]]])
    bias = torch.full((WIDTH,), 5.0, dtype=torch.float64)
    add_branch(module, sites[-1].sum, sites[-1].entry, torch.zeros(WIDTH, WIDTH, dtype=torch.float64), bias, -1)
    with torch.no_grad():
        expected = after_levels(model.steps(), [[[0], [1]]], tokens()) + 5.0
    assert relative_error(finish(module)(tokens()), expected) < 1e-12


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_branch_of_a_channels_first_state_is_a_pointwise_convolution(rank: int) -> None:
    example = normal(3, WIDTH, *[6, 5, 4][:rank])
    model, module, site = beside([OneConvolution(rank=rank, kernel_size=3, padding=1) for _ in range(2)], example)
    weight, bias = normal(WIDTH, WIDTH, seed=3), normal(WIDTH, seed=4)
    add_branch(module, site.sum, site.entry, weight, bias, 1)
    finished = finish(module)
    x = normal(7, *example.shape[1:], seed=2)
    with torch.no_grad():
        added = torch.einsum("oc,nc...->no...", weight, x) + bias.reshape(WIDTH, *[1] * rank)
        expected = x + model.terms[0](x) + model.terms[1](x) + added
    assert relative_error(finished(x), expected) < 1e-12
    assert wrong_metadata(finished, x) == []
