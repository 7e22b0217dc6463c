"""Branches on ranks: what each rank computes is what one process computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, fx, nn

from paraformer.model import VisionConfig, VisionParaFormer
from passes.errors import ParallelizeError
from passes.graph.editing import eliminate_dead_code
from passes.plan import Plan, StackPlan
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.schedule.average_branches import averaged
from passes.spread.collectives import ALL_REDUCE
from passes.spread.spread_branches import SpreadBranches
from tests.passes.drawn import calls, drawn
from tests.passes.models import (
    EXACT,
    SMALL,
    Attention,
    Levels,
    Mlp,
    Residual,
    graph_of,
    images,
    mlps,
    normal,
    plan_of,
    randomised,
    relative_error,
    run,
    scheduled,
    text,
    tokens,
    vision,
    wrong_metadata,
)
from tests.passes.schedule.forms import BLOCK, FORMS, PARA_FORMER, SERIAL, SUBLAYER
from tests.passes.schedules import stack_plans
from tests.passes.spread.together import outputs, spread

A, B, C = normal(8, 8, seed=2), normal(8, 8, seed=3), normal(8, 8, seed=4)
SHARED = {name: levels for name, levels in FORMS.items() if name != "all deleted"}


def _weights(graph: fx.GraphModule) -> int:
    return sum(parameter.numel() for parameter in graph.parameters())


def _same(graph: fx.GraphModule, size: int, *inputs: Tensor) -> list[fx.GraphModule]:
    """The ranks' graphs, each of which computes what the whole graph does."""
    graphs = spread(graph, size)
    expected = graph(*inputs)
    assert max(relative_error(found, expected) for found in outputs(graphs, *inputs)) < EXACT
    return graphs


@pytest.mark.parametrize("levels", SHARED.values(), ids=SHARED.keys())
def test_two_ranks_compute_what_one_process_does(levels: Levels) -> None:
    graph = scheduled(vision()[1], 8, levels)
    graphs = _same(graph, 2, images(7))
    reduced = [len(calls(each, ALL_REDUCE)) for each in graphs]
    assert reduced == [sum(len(level) > 1 for level in levels)] * 2
    assert [wrong_metadata(each, images(7)) for each in _without_collectives(graphs)] == [[], []]


def _without_collectives(graphs: list[fx.GraphModule]) -> list[fx.GraphModule]:
    """The graphs with the collectives taken out: shapes do not depend on them."""
    for graph in graphs:
        for node in calls(graph, ALL_REDUCE):
            (wait,) = node.users
            wait.replace_all_uses_with(node.args[0])
        eliminate_dead_code(graph)
        graph.recompile()
    return graphs


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_rank_holds_the_weights_of_its_own_branches_alone(size: int) -> None:
    graph = scheduled(vision()[1], 8, PARA_FORMER)
    graphs = _same(graph, size, images())
    branches = _weights(scheduled(vision()[1], 8, [[[0, 1]]])) - _weights(scheduled(vision()[1], 8, []))
    rest = _weights(graph) - 4 * branches
    counts = {2: [2, 2], 3: [2, 1, 1], 4: [1, 1, 1, 1]}[size]
    assert [_weights(each) for each in graphs] == [rest + count * branches for count in counts]


def test_a_rank_without_a_branch_on_a_level_adds_zeros_and_is_told() -> None:
    graph = scheduled(vision()[1], 8, [[[0, 1], [2, 3]], [[4], [5], [6], [7]]])
    _same(graph, 4, images())
    _, record = run(graph, SpreadBranches(3, 4, "group"))
    assert [line.split(": ")[1] for line in record.matches] == [
        "2 branches on 2 ranks, 2 idle, 50% on one",
        "4 branches on 4 ranks, 26% on one",
    ]


@settings(max_examples=8, deadline=None)
@given(stack_plans(terms=6))
def test_any_schedule_that_has_a_level_of_two_branches_is_spread_or_refused(plan: StackPlan) -> None:
    graph = run_passes(mlps(6)[1], [ApplyPlan(Plan((plan,)))])[0]
    if all(len(level.chains) < 2 for level in plan.levels):
        with pytest.raises(ParallelizeError, match=r"no level of several branches that 2 ranks could share"):
            spread(graph, 2)
        return
    if any(len(level.chains) > 1 and len({len(c) for c in level.chains}) == 1 for level in plan.levels):
        _same(graph, 2, tokens())


def test_branches_of_unequal_cost_are_shared_by_their_work() -> None:
    graph = scheduled(vision()[1], 8, [[[0, 1, 2], [3], [4, 5], [6]], [[7]]])
    _, record = run(graph, SpreadBranches(0, 2, "group"))
    assert [line.split(": ")[1] for line in record.matches] == ["4 branches on 2 ranks, 57% on one"]
    _same(graph, 2, images())


def test_what_a_refit_adds_to_a_level_is_added_once() -> None:
    def level(x: Tensor) -> Tensor:
        return x + x.relu() @ A + x.tanh() @ B + (x @ C + 3.0)

    _same(drawn(level, tokens()), 2, tokens())


def test_the_branches_of_a_para_former_are_spread_as_they_were_captured() -> None:
    config = VisionConfig(**{**SMALL.to_dict(), "mode": "para-former", "branches": 4})  # type: ignore[arg-type]
    model = VisionParaFormer(config)
    randomised(model)
    graphs = _same(graph_of(model, images()), 4, images(5))
    assert [len(calls(each, ALL_REDUCE)) for each in graphs] == [1, 1, 1, 1]


def test_averaged_branches_and_a_shared_norm_are_spread() -> None:
    _same(averaged(vision()[1], plan_of(8, BLOCK)), 2, images())
    post = Residual([Attention("unbind"), Mlp(), Attention("unbind"), Mlp()], [nn.LayerNorm(8) for _ in range(4)])
    randomised(post)
    graph = graph_of(post, tokens())
    for levels in ([[[0], [2]], [[1], [3]]], [[[0, 1], [2, 3]]]):
        _same(scheduled(graph, 4, levels), 2, tokens())


def test_stacks_side_by_side_meet_in_one_order() -> None:
    def tower(x: Tensor) -> Tensor:
        x = x + x.relu() @ A + x.tanh() @ B
        return x + x.relu() @ B + x.tanh() @ C

    graphs = _same(drawn(lambda x: torch.cat([tower(x), tower(2 * x)], -1), tokens()), 2, tokens())
    assert [len(calls(graph, ALL_REDUCE)) for graph in graphs] == [4, 4]


def test_a_sum_inside_a_branch_is_left_to_whoever_has_the_branch() -> None:
    def branch(x: Tensor) -> Tensor:
        y = x @ A
        return (y + y.relu() @ B + y.tanh() @ C) @ A

    graphs = _same(drawn(lambda x: x + branch(x) + branch(x.relu()), tokens()), 2, tokens())
    assert [len(calls(graph, ALL_REDUCE)) for graph in graphs] == [1, 1]


def test_a_graph_that_is_spread_stays_as_it_is() -> None:
    graph = spread(scheduled(vision()[1], 8, PARA_FORMER), 2)[0]
    again, record = run(graph, SpreadBranches(0, 2, "group"))
    assert text(again) == text(graph)
    assert record.matches == ()


def test_more_ranks_than_branches_are_refused() -> None:
    with pytest.raises(ParallelizeError) as raised:
        spread(scheduled(vision()[1], 8, SUBLAYER), 3)
    assert str(raised.value) == "No level has a branch for each of 3 ranks: the most branches on one level are 2."
    assert raised.value.hint == "Start 2 processes, or convert the model to fewer levels."


def test_a_serial_network_is_refused() -> None:
    with pytest.raises(ParallelizeError, match="no level of several branches that 2 ranks could share"):
        spread(scheduled(vision()[1], 8, SERIAL), 2)


def _reason(function: Callable[[Tensor], Tensor], size: int = 2) -> str:
    def whole(x: Tensor) -> Tensor:
        y = function(x)
        for _ in range(1):
            y = y + y.relu() @ A + y.tanh() @ B + y.sin() @ C + y.cos() @ A
        return y

    _, record = run(drawn(whole, tokens()), SpreadBranches(0, size, "group"))
    assert len(record.matches) == 1
    (reason,) = {skip.reason for skip in record.skipped}
    return reason


def test_branches_that_draw_random_values_are_left_to_every_rank() -> None:
    reason = _reason(lambda x: x + torch.dropout(x, 0.5, train=True) @ A + x @ B)
    assert reason == "dropout (aten.dropout.default) draws random values, which differ between ranks"


def test_a_level_of_which_one_branch_has_nearly_all_work_is_left_to_every_rank() -> None:
    reason = _reason(lambda x: x + x.relu() @ A @ B @ C @ A @ B @ C + x @ B)
    assert reason.startswith("one branch of add")
    assert reason.endswith("has 86% of the work")


def test_a_level_with_too_few_branches_and_nothing_to_make_zeros_of_is_left_to_every_rank() -> None:
    reason = _reason(lambda x: (x @ A[:, :4] + x.relu() @ B[:, :4]).repeat(1, 1, 2), 4)
    assert reason.endswith("is on all ranks, so that one without a branch had no zeros")
