"""Schedules of PyTorch's encoders: norms before and after the add, and one norm that the terms of a level share."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, fx, nn

from passes.clean.remove_identities import RemoveIdentities
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.plan import Level, Plan, StackPlan
from passes.schedule.apply_plan import ApplyPlan
from tests.passes.eager import after_levels
from tests.passes.models import (
    HIDDEN,
    WIDTH,
    Levels,
    Step,
    graph_of,
    randomised,
    relative_error,
    run,
    scheduled,
    text,
    tokens,
    wrong_metadata,
)
from tests.sampled import sampled


@functools.cache
def _encoder(norm_first: bool) -> tuple[nn.TransformerEncoder, fx.GraphModule]:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, HIDDEN, norm_first=norm_first, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    randomised(encoder)
    return encoder, graph_of(encoder, tokens())


def _encoder_steps(encoder: nn.TransformerEncoder) -> list[Step]:
    def attention(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        if layer.norm_first:
            return x + layer._sa_block(layer.norm1(x), None, None)
        y: Tensor = layer.norm1(x + layer._sa_block(x, None, None))
        return y

    def perceptron(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        if layer.norm_first:
            return x + layer._ff_block(layer.norm2(x))
        y: Tensor = layer.norm2(x + layer._ff_block(x))
        return y

    return [functools.partial(step, layer) for layer in encoder.layers for step in (attention, perceptron)]  # type: ignore[list-item]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "levels", sampled([[[[0], [2]], [[1], [3]]], [[[0, 1], [2, 3]]], [[[0], [1]], [[2, 3]]], [[[0]], [[3]]]], 3)
)
def test_pre_norm_and_post_norm_encoders_compute_what_their_sublayers_compute(norm_first: bool, levels: Levels) -> None:
    encoder, graph = _encoder(norm_first)
    with torch.no_grad():
        expected = after_levels(_encoder_steps(encoder), levels, tokens())
    rewritten = scheduled(graph, 4, levels)
    assert relative_error(rewritten(tokens()), expected) < 1e-12
    assert wrong_metadata(rewritten, tokens()) == []


def _shared(*chains: tuple[int, ...]) -> Plan:
    return Plan((StackPlan(4, (Level(chains, shared=True),)),))


def test_a_shared_norm_is_the_last_terms_norm_of_the_sum_of_all_terms() -> None:
    encoder, graph = _encoder(norm_first=False)
    first, second = encoder.layers[0], encoder.layers[1]
    rewritten, _ = run(graph, ApplyPlan(_shared((0,), (1,), (2,), (3,))))
    x = tokens()
    with torch.no_grad():
        attention = first._sa_block(x, None, None) + second._sa_block(x, None, None)
        expected = second.norm2(x + attention + first._ff_block(x) + second._ff_block(x))
    assert relative_error(rewritten(x), expected) < 1e-12
    assert wrong_metadata(rewritten, tokens(7)) == []


def test_under_a_shared_norm_only_the_last_term_of_a_chain_goes_without_its_own() -> None:
    encoder, graph = _encoder(norm_first=False)
    rewritten, _ = run(graph, ApplyPlan(_shared((0, 1), (2, 3))))
    x = tokens()
    with torch.no_grad():
        states = [layer.norm1(x + layer._sa_block(x, None, None)) for layer in encoder.layers]
        ends = [y + layer._ff_block(y) for y, layer in zip(states, encoder.layers, strict=True)]
        expected = encoder.layers[1].norm2(x + (ends[0] - x) + (ends[1] - x))
    assert relative_error(rewritten(x), expected) < 1e-12


def test_a_chain_alone_on_its_level_has_its_own_norm_whether_it_is_shared_or_not() -> None:
    _, graph = _encoder(norm_first=False)
    levels = tuple(Level(((term,),), shared=True) for term in range(4))
    assert text(run(graph, ApplyPlan(Plan((StackPlan(4, levels),))))[0]) == text(graph)


def test_a_shared_norm_where_no_norm_follows_the_add_is_refused() -> None:
    _, graph = _encoder(norm_first=True)
    with pytest.raises(ParallelizeError, match=r"Level 0 of the plan shares a norm that the terms of .* do not have"):
        run(graph, ApplyPlan(_shared((0,), (1,), (2,), (3,))))


@pytest.mark.parametrize("chains", [((0,), (2,)), ((0, 1), (2, 3))])
def test_a_level_of_a_shared_norm_is_fused_exactly(chains: tuple[tuple[int, ...], ...]) -> None:
    graph, _ = run(_encoder(norm_first=False)[1], RemoveIdentities())
    rest = () if chains[0] == (0, 1) else (Level(((1,), (3,)), shared=True),)
    plan = Plan((StackPlan(4, (Level(chains, shared=True), *rest)),))
    rewritten, _ = run(graph, ApplyPlan(plan))
    fused, record = run(rewritten, FuseWidth(), tokens())
    assert record.skipped == ()
    assert len(record.matches) == 1 + len(rest)
    assert relative_error(fused(tokens()), rewritten(tokens())) < 1e-12
