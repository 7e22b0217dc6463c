"""Greedy deletion: the block that costs least goes, and few others are measured for that."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from parallelize.baselines import greedy
from parallelize.baselines.block_deletion import deletion
from parallelize.baselines.depths import wanted_depths
from parallelize.baselines.greedy import least_costly
from parallelize.baselines.trial import States, Trial
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import (
    PostNorm,
    Residual,
    TwoStacks,
    capture_vectors,
    images,
    linear,
    vectors,
    vision,
)

HELD_OUT = images(60, 1)


def _greedy(teacher: fx.GraphModule, depth: int, trial: Trial) -> list[list[int]]:
    """Greedy deletion by whole networks, without any state that is kept."""
    stacks = find_stacks(teacher).stacks
    kept = [list(range(len(stack.blocks))) for stack in stacks]
    while sum(map(len, kept)) > depth:
        errors = {}
        for number, blocks in enumerate(kept):
            for block in blocks if len(blocks) > 1 else ():
                left = [[b for b in other if (n, b) != (number, block)] for n, other in enumerate(kept)]
                module, _ = rewrite(teacher, deletion(stacks, tuple(map(tuple, left))))
                errors[number, block] = trial.error(module)
        number, block = min(errors, key=lambda place: errors[place])
        kept[number].remove(block)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 3))])
def test_greedy_deletion_is_that_of_whole_networks_measured_one_by_one(depth: int) -> None:
    teacher = vision().module
    stacks = find_stacks(teacher).stacks
    trial = Trial(teacher, HELD_OUT, "kl")
    kept = least_costly(stacks, wanted_depths(stacks, depth), trial)
    assert list(map(list, kept)) == _greedy(teacher, depth, trial)


@pytest.mark.parametrize("depth", [4, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 6))])
def test_of_several_stacks_the_cheapest_block_goes_whichever_it_is_of(depth: int) -> None:
    torch.manual_seed(1)
    teacher = capture_vectors(TwoStacks(), 6).module
    stacks = find_stacks(teacher).stacks
    assert [len(stack.blocks) for stack in stacks] == [3, 4]
    trial = Trial(teacher, vectors(40, 6, 1), "relative-l2")
    depths = wanted_depths(stacks, depth)
    assert list(map(list, least_costly(stacks, depths, trial))) == _greedy(teacher, depth, trial)


def test_greedy_deletion_scores_anew_after_each_removal() -> None:
    """Constant terms of which 0.5 goes first; without it 1.0 costs 1.5, and -1.1 costs 0.6."""
    terms = [linear(torch.zeros(4, 4), torch.tensor([size, 0, 0, 0])) for size in (1.0, -1.1, 0.5)]
    teacher = capture_vectors(Residual(terms), 4).module
    stacks = find_stacks(teacher).stacks
    trial = Trial(teacher, vectors(40, 4, 1), "relative-l2")
    assert least_costly(stacks, wanted_depths(stacks, 2), trial) == ((0, 1),)
    assert least_costly(stacks, wanted_depths(stacks, 1), trial) == ((0,),)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_blocks_of_a_post_norm_model_are_deleted_with_their_norms(depth: int) -> None:
    torch.manual_seed(0)
    teacher = capture_vectors(PostNorm(4), 6).module
    stacks = find_stacks(teacher).stacks
    trial = Trial(teacher, vectors(40, 6, 1), "relative-l2")
    assert list(map(list, least_costly(stacks, wanted_depths(stacks, depth), trial))) == _greedy(teacher, depth, trial)


class _Counting(Trial):
    """Counts what is measured."""

    measured = 0

    def error_from(self, module: fx.GraphModule, node: fx.Node, states: States) -> float:
        self.measured += 1
        return super().error_from(module, node, states)


def _constants(*sizes: float) -> fx.GraphModule:
    """Blocks that add a constant each: what some of them cost is the size of their sum."""
    return capture_vectors(Residual([linear(torch.zeros(4, 4), torch.tensor([s, 0, 0, 0])) for s in sizes]), 4).module


def test_blocks_that_cost_more_than_the_cheapest_are_not_measured_again() -> None:
    """Each costs more than the round before: in the first round all are measured, in the second those that may go."""
    teacher = _constants(4.0, 1.0, 2.0, 2.5)
    stacks = find_stacks(teacher).stacks
    trial = _Counting(teacher, vectors(40, 4, 1), "relative-l2")
    assert least_costly(stacks, wanted_depths(stacks, 3), trial) == ((0, 2, 3),)
    assert trial.measured == 4
    trial.measured = 0
    assert least_costly(stacks, wanted_depths(stacks, 2), trial) == ((0, 3),)
    assert trial.measured == 4 + 2  # 2.0 costs 3.0 now, more than 2.5 did, which costs 3.5; 4.0 did already


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_states_that_are_not_kept_are_computed_again(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = vision().module
    stacks = find_stacks(teacher).stacks
    trial = Trial(teacher, HELD_OUT, "kl")
    kept = least_costly(stacks, wanted_depths(stacks, depth), trial)
    monkeypatch.setattr(greedy, "KEPT_BYTES", 0)
    assert least_costly(stacks, wanted_depths(stacks, depth), trial) == kept
