"""The teacher's states on the samples that costs are measured on: each is computed once, as far as there is room."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx

from parallelize.data.buffer import Buffer
from parallelize.metrics import Judge
from parallelize.models.effort import Effort
from parallelize.models.states import Batch, placeholders, run_segment
from parallelize.planning import teacher_states
from parallelize.planning.costs import GroupCosts
from parallelize.planning.forms import main_form, other_forms
from parallelize.planning.teacher_states import TeacherStates
from passes.graph.segment import extract
from passes.stacks.find import Stack, find_stacks
from tests.parallelize.planning.cases import FIT, HELD_OUT, VECTORS
from tests.parallelize.small_models import TwoStacks, capture_vectors, vision

SPANS = ((2, 3), (0, 1), (1, 3), (3, 3), (0, 0))


def _states(teacher: fx.GraphModule) -> TeacherStates:
    return TeacherStates(teacher, find_stacks(teacher).stacks, (FIT, HELD_OUT), 30)


def _run(teacher: fx.GraphModule, batch: Batch, node: fx.Node) -> Tensor:
    return run_segment(extract(teacher, placeholders(teacher), [node]), batch.inputs)[0]


def _bytes(stack: Stack, held: float) -> int:
    """Room for so many states of a stack."""
    return int(held * stack.entry.meta["val"][0].numel() * 4 * (len(FIT) + len(HELD_OUT)))


@pytest.mark.parametrize("held", [0, 1.5, 2.5, 4.5, 100])
def test_groups_get_the_state_before_them_and_states_up_to_their_end(
    held: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    monkeypatch.setattr(teacher_states, "KEPT_BYTES", _bytes(stack, held))
    states = _states(teacher)
    for first, last in SPANS:
        start = stack.terms[stack.blocks[first][0]].skip
        for batch in (batch for part in states.around(0, first, last) for batch in part):
            assert torch.equal(batch.state.value, batch.teacher.value)
            torch.testing.assert_close(batch.state.value, _run(teacher, batch, start))
            for node, kept in batch.ahead.items():
                torch.testing.assert_close(kept.value, _run(teacher, batch, node))


@pytest.mark.parametrize(("held", "count"), [(0.5, 0), (1.5, 1), (2.5, 2), (3.5, 2), (4.5, 4), (7.5, 4), (8.5, 8)])
def test_as_many_states_are_held_as_there_is_room_for_evenly_apart(
    held: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four blocks of two terms: states behind each term, or each block, or each second one, and so on."""
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    monkeypatch.setattr(teacher_states, "KEPT_BYTES", _bytes(stack, held))
    (batch, *_), _ = _states(teacher).around(0, 0, 3)
    assert len(batch.ahead) == count
    assert count == 0 or stack.terms[-1].result in batch.ahead


def test_the_teacher_runs_once_however_many_groups_there_are() -> None:
    teacher = vision().module
    states, effort = _states(teacher), Effort()
    with effort.counting():
        for first, last in SPANS:
            states.around(0, first, last)
    assert 0.8 < effort.forward_passes(teacher, FIT, HELD_OUT) <= 1.0


def test_what_is_held_for_long_leaves_the_memory_to_others_and_goes_with_the_states() -> None:
    teacher, buffer = vision().module, Buffer(2**19)
    states = TeacherStates(
        teacher, find_stacks(teacher).stacks, (replace(FIT, buffer=buffer), replace(HELD_OUT, buffer=buffer)), 30
    )
    states.around(0, 0, 3)
    assert sum(buffer.held.values()) < 0.3 * buffer.bound
    assert buffer.in_file > 0
    states.clear()
    assert (sum(buffer.held.values()), buffer.in_file) == (0, 0)


@pytest.mark.parametrize("held", [0, 2.5])
def test_costs_are_the_same_whatever_is_held(held: float, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    forms = [main_form(stack, 1, 2), *other_forms(stack, 1, 2, main_form(stack, 1, 2).cut)]
    found = []
    for room in (2**31, _bytes(stack, held)):
        monkeypatch.setattr(teacher_states, "KEPT_BYTES", room)
        costs = GroupCosts(teacher, (stack,), FIT, Judge(teacher, HELD_OUT, "kl"), "affine")
        found.append([costs.cost(0, form) for form in forms])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_stacks_share_what_may_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(TwoStacks(), 6).module
    stacks = find_stacks(teacher).stacks
    states = TeacherStates(teacher, stacks, VECTORS, 100)
    size = sum(batch.state.nbytes for part in states.around(0, 0, -1) for batch in part)
    monkeypatch.setattr(teacher_states, "KEPT_BYTES", 2 * size)
    for number, stack in enumerate(stacks):
        (batch,), _ = states.around(number, 0, len(stack.blocks) - 1)
        assert list(batch.ahead) == [stack.terms[-1].result]
