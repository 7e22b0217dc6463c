"""Out-projections: the outer coefficients that a refit may change, and how a change is written into the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from passes.apply_plan import LevelSite, rewrite
from passes.infra import Skip, finish
from passes.operators import LAYER_NORM, aten
from passes.out_projection import add_affine_branch, add_to_out_projection, level_features, plain_norm
from passes.parameters import read_parameter
from tests.passes.models import (
    WIDTH,
    Attention,
    GatedMlp,
    LayerScale,
    Levels,
    Mlp,
    Residual,
    after_levels,
    graph_of,
    mlps,
    normal,
    plan_of,
    randomised,
    relative_error,
    tokens,
    vision,
    wrong_metadata,
)


def _levels(graph: fx.GraphModule, terms: int, levels: Levels) -> tuple[fx.GraphModule, tuple[LevelSite, ...]]:
    module, (site,) = rewrite(graph, plan_of(terms, levels))
    return module, site.levels


def _weights(module: fx.GraphModule, nodes: tuple[fx.Node, ...]) -> list[str]:
    return [str(node.args[1].target) for node in nodes]  # type: ignore[union-attr]


def test_every_chain_of_one_term_has_an_out_projection_that_may_change() -> None:
    module, levels = _levels(vision()[1], 8, [[[0], [2], [3]]])
    features = level_features(levels[0])
    assert _weights(module, features.outs) == [
        "blocks.0.attention.out.weight",
        "blocks.1.attention.out.weight",
        "blocks.1.down.weight",
    ]
    assert features.skipped == ()


def test_of_a_chain_only_the_last_term_acts_linearly_on_the_sum() -> None:
    module, levels = _levels(vision()[1], 8, [[[0, 1], [2, 3]], [[4]], [[5]]])
    assert _weights(module, level_features(levels[0]).outs) == ["blocks.0.down.weight", "blocks.1.down.weight"]
    assert _weights(module, level_features(levels[1]).outs) == ["blocks.2.attention.out.weight"]


def test_a_chain_alone_on_its_level_has_the_out_projection_of_its_last_term() -> None:
    module, levels = _levels(vision()[1], 8, [[[0, 1, 2]], [[3, 4]]])
    assert _weights(module, level_features(levels[0]).outs) == ["blocks.1.attention.out.weight"]
    assert _weights(module, level_features(levels[1]).outs) == ["blocks.2.attention.out.weight"]


def test_a_term_that_ends_in_a_scale_is_skipped_with_its_operator() -> None:
    graph = graph_of(randomised(Residual([LayerScale(Mlp()), Mlp()])), tokens())
    _, levels = _levels(graph, 2, [[[0], [1]]])
    features = level_features(levels[0])
    assert len(features.outs) == 1
    assert features.skipped == (Skip("mul", "mul is aten.mul.Tensor and not a linear layer with stored weights"),)


def test_a_term_with_a_norm_after_the_add_is_skipped_beside_others() -> None:
    graph = graph_of(randomised(Residual([Mlp(), Mlp()], [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])), tokens())
    _, levels = _levels(graph, 2, [[[0], [1]]])
    features = level_features(levels[0])
    assert features.outs == ()
    assert [skip.reason.split(" is ", 1)[1] for skip in features.skipped] == [
        "aten.sub.Tensor and not a linear layer with stored weights"
    ] * 2


def test_the_norm_of_a_level_is_one_of_its_state() -> None:
    _, levels = _levels(vision()[1], 8, [[[0], [2]], [[1], [3]]])
    for level in levels:
        norm = level_features(level).norm
        assert norm is not None
        assert norm.target == LAYER_NORM
        assert norm.args[0] is level.entry


def test_a_level_whose_terms_have_no_norm_has_none() -> None:
    graph = graph_of(randomised(Residual([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])), tokens())
    _, levels = _levels(graph, 2, [[[0], [1]]])
    assert level_features(levels[0]).norm is None


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
    graph = graph_of(randomised(Residual([term(), term()])), tokens())
    module, levels = _levels(graph, 2, [[[0], [1]]])
    norm = level_features(levels[0]).norm
    assert norm is not None
    node = plain_norm(module, norm)
    (output,) = module.graph.find_nodes(op="output")
    output.args = (node,)
    module.recompile()
    assert relative_error(module(tokens()), expected(tokens())) < 1e-14
    assert str(node.meta["val"].shape) == str(norm.meta["val"].shape)


def test_a_change_of_an_out_projection_is_added_to_its_weight() -> None:
    model, graph = mlps(2)
    module, levels = _levels(graph, 2, [[[0], [1]]])
    change = normal(WIDTH, 12, seed=3)
    out = level_features(levels[0]).outs[1]
    add_to_out_projection(module, out, change)
    finished = finish(module)
    with torch.no_grad():
        first, second = model.terms
        hidden = F.gelu(second.up(second.norm(tokens())))  # type: ignore[operator]
        expected = tokens() + first(tokens()) + second(tokens()) + hidden @ change.T
    assert relative_error(finished(tokens()), expected) < 1e-12
    assert wrong_metadata(finished, tokens()) == []


def test_whoever_shares_a_changed_weight_keeps_the_old_one() -> None:
    term = Mlp()
    graph = graph_of(randomised(Residual([term, term])), tokens())
    module, levels = _levels(graph, 2, [[[0], [1]]])
    first, second = level_features(levels[0]).outs
    before = read_parameter(module, second.args[1]).clone()  # type: ignore[arg-type]
    add_to_out_projection(module, first, torch.ones(WIDTH, 12, dtype=torch.float64))
    assert torch.equal(read_parameter(module, second.args[1]), before)  # type: ignore[arg-type]
    assert torch.equal(read_parameter(module, first.args[1]), before + 1)  # type: ignore[arg-type]
    assert torch.equal(term.down.weight, before)


def test_a_change_keeps_the_dtype_of_the_weight() -> None:
    graph = graph_of(randomised(Residual([Mlp(), Mlp()])).float(), tokens().float())
    module, levels = _levels(graph, 2, [[[0], [1]]])
    (out, _) = level_features(levels[0]).outs
    add_to_out_projection(module, out, normal(WIDTH, 12))
    assert read_parameter(module, out.args[1]).dtype == torch.float32  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [[[[0], [1]], [[2], [3]]], [[[0, 1], [2, 3]]], [[[0]], [[1, 2, 3]]]])
def test_an_affine_branch_is_added_to_the_state_after_its_level(levels: Levels) -> None:
    model, graph = mlps(4)
    module, sites = _levels(graph, 4, levels)
    weight, bias = normal(WIDTH, WIDTH, seed=3), normal(WIDTH, seed=4)
    total = add_affine_branch(module, sites[0], sites[0].entry, weight, bias)
    with torch.no_grad():
        state = after_levels(model.steps(), levels[:1], tokens()) + tokens() @ weight.T + bias
        expected = after_levels(model.steps(), levels[1:], state)
    assert str(total.meta["val"].shape) == str(sites[0].entry.meta["val"].shape)
    finished = finish(module)
    assert relative_error(finished(tokens()), expected) < 1e-12
    assert wrong_metadata(finished, tokens(7)) == []


def test_an_affine_branch_behind_the_last_level_reaches_the_outputs() -> None:
    model, graph = mlps(2)
    module, sites = _levels(graph, 2, [[[0], [1]]])
    bias = torch.full((WIDTH,), 5.0, dtype=torch.float64)
    add_affine_branch(module, sites[-1], sites[-1].entry, torch.zeros(WIDTH, WIDTH, dtype=torch.float64), bias)
    with torch.no_grad():
        expected = after_levels(model.steps(), [[[0], [1]]], tokens()) + 5.0
    assert relative_error(finish(module)(tokens()), expected) < 1e-12


def test_attention_without_a_stored_out_projection_is_skipped() -> None:
    class Bare(Attention):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return torch.tanh(super().forward(x, mask))

    graph = graph_of(randomised(Residual([Bare("chunk"), Bare("chunk")])), tokens())
    _, levels = _levels(graph, 2, [[[0], [1]]])
    assert [skip.node for skip in level_features(levels[0]).skipped] == ["tanh", "tanh_1"]
    assert aten.tanh.default in [node.target for node in levels[0].contributions]
