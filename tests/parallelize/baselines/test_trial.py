"""A network measured from the states at a node is the network measured whole."""

from __future__ import annotations

import pytest
import torch

from parallelize.baselines.trial import Trial, move, states_at
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import images, stack_plan, vision

HELD_OUT = images(130, 1, labelled=True)


def test_states_come_batch_by_batch_and_can_be_moved_along() -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    start = states_at(teacher, stack.entry, HELD_OUT)
    assert [len(value) for value in start.values] == [100, 30]
    moved = move(teacher, stack.entry, stack.terms[3].result, start)
    for one, other in zip(moved.values, states_at(teacher, stack.terms[3].result, HELD_OUT).values, strict=True):
        assert torch.equal(one, other)


def test_the_teacher_from_its_own_states_has_no_error() -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    node = stack.terms[2].result
    assert Trial(teacher, HELD_OUT, "kl").error_from(teacher, node, states_at(teacher, node, HELD_OUT)) < 1e-9


@pytest.mark.parametrize("metric", ["kl", "relative-l2", "disagreement", "top1-drop"])
def test_the_state_before_a_block_fed_behind_it_measures_the_network_without_the_block(metric: str) -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    trial = Trial(teacher, HELD_OUT, metric)
    without, _ = rewrite(teacher, stack_plan(8, [[[term]] for term in (0, 1, 4, 5, 6, 7)], "none"))
    states = states_at(teacher, stack.terms[2].skip, HELD_OUT)
    from_states = trial.error_from(teacher, stack.terms[3].result, states)
    assert from_states == pytest.approx(trial.error(without), rel=1e-4)
