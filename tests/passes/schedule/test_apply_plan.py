"""Schedules on graphs: what a rewritten network computes is what its own terms compute when run as the plan says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from passes.errors import ParallelizeError
from passes.graph.editing import clone
from passes.graph.operators import ADD
from passes.plan import Plan, StackPlan, serial
from passes.schedule.apply_plan import ApplyPlan, rewrite, schedule
from tests.passes.eager import after_levels, vision_output
from tests.passes.models import (
    Levels,
    images,
    mlps,
    plan_of,
    relative_error,
    run,
    scheduled,
    text,
    tokens,
    vision,
    wrong_metadata,
)
from tests.passes.schedule.forms import BLOCK, DELETED, FORMS, SERIAL, SUBLAYER
from tests.passes.schedules import stack_plans


@pytest.mark.parametrize("levels", FORMS.values(), ids=FORMS.keys())
def test_a_scheduled_transformer_computes_what_its_sublayers_compute_in_that_order(levels: Levels) -> None:
    model, graph = vision()
    rewritten = scheduled(graph, 8, levels)
    for batch in (1, 3, 7):
        assert relative_error(rewritten(images(batch)), vision_output(model, levels, images(batch))) < 1e-12
    assert relative_error(rewritten(images()), model(images())) > 1e-3
    assert wrong_metadata(rewritten, images(7)) == []


def test_the_serial_schedule_is_the_captured_graph_to_the_bit() -> None:
    model, graph = vision()
    rewritten, record = run(graph, ApplyPlan(plan_of(8, SERIAL)), images())
    assert text(rewritten) == text(graph)
    assert torch.equal(rewritten(images()), model(images()))
    assert record.error == 0.0


def test_one_chain_of_all_terms_is_the_captured_graph_too() -> None:
    _, graph = vision()
    assert text(scheduled(graph, 8, [[list(range(8))]])) == text(graph)


@settings(max_examples=8, deadline=None)
@given(stack_plans(terms=5))
def test_any_schedule_computes_what_its_terms_compute_in_that_order(plan: StackPlan) -> None:
    model, graph = mlps(5)
    levels = [[list(chain) for chain in level.chains] for level in plan.levels]
    rewritten, _ = run(graph, ApplyPlan(Plan((plan,))))
    with torch.no_grad():
        expected = after_levels(model.steps(), levels, tokens())
    assert relative_error(rewritten(tokens()), expected) < 1e-12
    assert wrong_metadata(rewritten, tokens()) == []


def test_the_teacher_graph_is_not_changed() -> None:
    model, graph = vision()
    before, expected = text(graph), model(images())
    scheduled(graph, 8, SUBLAYER)
    rewrite(graph, plan_of(8, BLOCK))
    assert text(graph) == before
    assert torch.equal(graph(images()), expected)


def test_parameters_are_shared_with_the_teacher_and_those_of_deleted_terms_are_gone() -> None:
    _, graph = vision()
    rewritten = scheduled(graph, 8, DELETED)
    stored = dict(rewritten.named_parameters())
    teacher = dict(graph.named_parameters())
    assert all(parameter is teacher[name] for name, parameter in stored.items())
    missing = {name.rsplit(".", 1)[0] for name in teacher.keys() - stored.keys()}
    assert missing == {f"blocks.{block}.{name}" for block, name in [(0, "norm2"), (0, "up"), (0, "down")]} | {
        "blocks.1.norm1",
        "blocks.1.attention.qkv",
        "blocks.1.attention.out",
        "blocks.2.norm2",
        "blocks.2.up",
        "blocks.2.down",
        "blocks.3.norm1",
        "blocks.3.attention.qkv",
        "blocks.3.attention.out",
    }


def test_a_level_of_n_chains_takes_n_adds() -> None:
    _, graph = mlps(6)
    rewritten = scheduled(graph, 6, [[[0], [1], [2]], [[3], [4], [5]]])
    assert sum(node.target == ADD for node in rewritten.graph.nodes) == 6
    assert not any(node.target == torch.ops.aten.sub.Tensor for node in rewritten.graph.nodes)


def test_a_second_run_finds_other_stacks_and_refuses_the_plan() -> None:
    _, graph = vision()
    with pytest.raises(ParallelizeError, match="the model has"):
        scheduled(scheduled(graph, 8, SUBLAYER), 8, SUBLAYER)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan(()), "The plan is for 0 stacks, the model has 1."),
        (Plan((serial(8), serial(8))), "The plan is for 2 stacks, the model has 1."),
        (Plan((serial(6),)), "The plan has 6 terms for the stack blocks, the model has 8."),
        (plan_of(8, [[[0]], [[9]]]), "The plan names term 9, the stack has 8 terms."),
        (plan_of(8, [[[0], [0]]]), "The plan runs term 0 twice."),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused_with_the_numbers(plan: Plan, sentence: str) -> None:
    _, graph = vision()
    with pytest.raises(ParallelizeError) as caught:
        run(graph, ApplyPlan(plan))
    assert str(caught.value) == sentence


def test_a_plan_for_another_model_points_at_inspect() -> None:
    with pytest.raises(ParallelizeError) as caught:
        run(vision()[1], ApplyPlan(Plan(())))
    assert "`parallelize inspect MODEL`" in caught.value.hint


def test_a_schedule_in_place_leaves_every_node_behind_what_it_reads() -> None:
    edited = clone(vision()[1])
    schedule(edited, plan_of(8, SUBLAYER))
    edited.graph.lint()
