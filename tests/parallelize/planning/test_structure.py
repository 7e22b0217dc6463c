"""Schedules without data, and which groups fuse."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from parallelize.models.program import Program
from parallelize.planning.forms import deletion, forms, gptj, main_form, sublayer
from parallelize.planning.fusibility import Fusibility
from parallelize.planning.structure import structural_plan
from passes.errors import ParallelizeError
from passes.fusion.fuse_width import FuseWidth
from passes.plan import Plan
from passes.runner import run_passes
from passes.schedule.apply_plan import ApplyPlan
from passes.stacks.find import find_stacks
from passes.stacks.stack_graph import StackGraph, stack_graph
from tests.parallelize.planning.cases import mlps, on_vectors
from tests.parallelize.small_models import Residual, Towers, capture_vectors, mlp, vision


class Lone(nn.Module):
    """norm, up, tanh, down."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, hidden), nn.Linear(hidden, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(torch.tanh(self.up(self.norm(x))))
        return y


@functools.cache
def unlike() -> Program:
    """Four blocks: the first two of one structure, the last two of others."""
    torch.manual_seed(0)
    terms = [mlp(6, 12), mlp(6, 12), mlp(6, 10), Lone(12)]
    return capture_vectors(Residual(terms, nn.Linear(6, 5)), 6)


def graph_of(module: torch.fx.GraphModule) -> StackGraph:
    return stack_graph(find_stacks(module).stacks)


def groups(plan: Plan) -> list[list[int]]:
    """How many chains each level of each stack has."""
    return [[len(level.chains) for level in part.levels] for part in plan.stacks]


def test_blocks_of_equal_structure_fuse_in_every_form() -> None:
    module = vision().module
    (stack,) = find_stacks(module).stacks
    fusibility = Fusibility(module, (stack,))
    for form in forms(stack, 0, 3):
        assert fusibility.why_not(0, form) is None, form.name
    assert fusibility.left == {}


def test_a_group_of_unlike_blocks_does_not_fuse_and_the_reason_is_kept() -> None:
    (stack,) = find_stacks(unlike().module).stacks
    fusibility = Fusibility(unlike().module, (stack,))
    assert fusibility.why_not(0, sublayer(stack, 0, 1)) is None
    reason = fusibility.why_not(0, sublayer(stack, 1, 2))
    assert reason is not None
    assert fusibility.why_not(0, sublayer(stack, 0, 3)) is not None
    assert fusibility.left == {0: reason}


def test_one_block_and_deletion_need_no_fusion() -> None:
    (stack,) = find_stacks(unlike().module).stacks
    fusibility = Fusibility(unlike().module, (stack,))
    assert fusibility.why_not(0, main_form(stack, 2, 2)) is None
    assert fusibility.why_not(0, deletion(stack, 1, 3, 1)) is None


def test_equal_blocks_are_tried_once_for_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    module = vision().module
    (stack,) = find_stacks(module).stacks
    fusibility = Fusibility(module, (stack,))
    tried: list[str] = []
    before = Fusibility._tried

    def tracked(self: Fusibility, number: int, form: object) -> str | None:
        tried.append(form.kind)  # type: ignore[attr-defined]
        return before(self, number, form)  # type: ignore[arg-type]

    monkeypatch.setattr(Fusibility, "_tried", tracked)
    for last in (1, 2, 3):
        fusibility.why_not(0, sublayer(stack, 0, last))
        fusibility.why_not(0, gptj(stack, 0, last, (last + 2) // 2))
    assert sorted(tried) == ["GPT-J", "sublayer"]


@pytest.mark.parametrize(
    ("depth", "sizes"),
    [(1, [6]), (2, [3, 3]), (3, [2, 2, 2]), (4, [1, 1, 2, 2]), (5, [1, 1, 1, 1, 2]), (None, [2] * 3)],
)
def test_groups_are_as_equal_as_can_be_the_larger_ones_last(depth: int | None, sizes: list[int]) -> None:
    module = mlps(6).module
    assert groups(structural_plan(module, graph_of(module), depth)) == [sizes]


def test_only_what_fuses_is_put_side_by_side() -> None:
    plan = structural_plan(unlike().module, graph_of(unlike().module), None)
    assert groups(plan) == [[2, 1, 1]]
    _, (_, record) = run_passes(unlike().module, [ApplyPlan(plan), FuseWidth()])
    assert len(record.matches) == 1
    assert record.skipped == ()


def test_a_depth_that_needs_groups_that_do_not_fuse_is_refused_with_the_reason() -> None:
    with pytest.raises(ParallelizeError, match=r"that fuse is 2 blocks deep, the shallowest has 3 \("):
        structural_plan(unlike().module, graph_of(unlike().module), 2)


def test_towers_are_each_as_deep_as_the_whole_may_be() -> None:
    torch.manual_seed(0)
    module = capture_vectors(Towers((4, 2)), 6).module
    assert groups(structural_plan(module, graph_of(module), 2)) == [[2, 2], [1, 1]]
    assert groups(structural_plan(module, graph_of(module), 1)) == [[4], [2]]


def test_a_search_leaves_groups_that_do_not_fuse_as_deep_as_serial_and_says_so() -> None:
    planner = on_vectors(unlike(), refit="none")
    found = planner.at_depth(3)
    assert [name for name, _ in found.unfused] == [planner.stacks[0].name]
    for first, last in ((1, 2), (2, 3), (0, 3)):
        assert "deletion" in planner.groups._main(0, first, last).name
    assert planner.groups._main(0, 0, 1).name == "sublayer"
