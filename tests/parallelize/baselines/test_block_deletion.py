"""Which blocks a deletion keeps: by influence, and the first of each group."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  (the name PyTorch users know)

from paraformer.model import VisionParaFormer
from parallelize.baselines.block_deletion import (
    Kept,
    block_influence,
    deletion,
    first_of_each_group,
    most_influential,
)
from parallelize.baselines.depths import wanted_depths
from parallelize.baselines.greedy import least_costly
from parallelize.baselines.trial import Trial
from passes.plan import Plan
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import (
    SMALL,
    Residual,
    TwoStacks,
    capture_vectors,
    images,
    mlp,
    pairs,
    silent,
    stack_plan,
    vectors,
    vision,
)

HELD_OUT = images(60, 1)


def test_a_deletion_runs_the_kept_blocks_one_after_another() -> None:
    stacks = find_stacks(vision().module).stacks
    plan = deletion(stacks, ((0, 3),))
    assert plan == stack_plan(8, [[[0]], [[1]], [[6]], [[7]]], "none")


def test_of_each_group_the_first_block_stays() -> None:
    stacks = find_stacks(vision().module).stacks
    assert first_of_each_group(stacks, pairs("none"), wanted_depths(stacks, pairs("none"))) == ((0, 2),)


def test_where_the_first_blocks_of_groups_make_another_depth_there_is_no_such_deletion() -> None:
    torch.manual_seed(0)
    stacks = find_stacks(capture_vectors(Residual([mlp(4, 8) for _ in range(4)]), 4).module).stacks
    plan = stack_plan(4, [[[0, 1]], [[2], [3]]], "none")
    assert first_of_each_group(stacks, plan, wanted_depths(stacks, plan)) is None


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_the_blocks_of_least_influence_go(depth: int) -> None:
    teacher = vision().module
    stacks = find_stacks(teacher).stacks
    influence = block_influence(teacher, stacks[0], HELD_OUT)
    (kept,) = most_influential(teacher, stacks, wanted_depths(stacks, depth), HELD_OUT)
    assert len(kept) == depth
    gone = set(range(4)) - set(kept)
    assert max((influence[block] for block in gone), default=0) < min(influence[block] for block in kept)


@pytest.mark.parametrize("depth", [2, 4, 6])
def test_blocks_of_several_stacks_are_deleted_in_one_ranking(depth: int) -> None:
    torch.manual_seed(1)
    teacher = capture_vectors(TwoStacks(), 6).module
    stacks = find_stacks(teacher).stacks
    assert [len(stack.blocks) for stack in stacks] == [3, 4]
    influential = most_influential(teacher, stacks, wanted_depths(stacks, depth), vectors(40, 6, 1))
    assert sum(map(len, influential)) == depth
    assert all(influential)


def test_a_plan_says_how_many_blocks_of_each_stack_stay() -> None:
    torch.manual_seed(1)
    teacher = capture_vectors(TwoStacks(), 6).module
    stacks = find_stacks(teacher).stacks
    plan = Plan(
        (*stack_plan(3, [[[0]], [[1]], [[2]]], "none").stacks, *stack_plan(4, [[[0], [1], [2], [3]]], "none").stacks)
    )
    depths = wanted_depths(stacks, plan)
    trial = Trial(teacher, vectors(40, 6, 1), "relative-l2")
    ways: list[Kept] = [least_costly(stacks, depths, trial), most_influential(teacher, stacks, depths, trial.held_out)]
    assert [[len(blocks) for blocks in kept] for kept in ways] == [[3, 1], [3, 1]]


def test_a_block_that_is_the_identity_has_no_influence_and_the_others_have_some() -> None:
    teacher = silent(2).module
    (stack,) = find_stacks(teacher).stacks
    influence = block_influence(teacher, stack, HELD_OUT)
    assert influence[2] == pytest.approx(0, abs=1e-12)
    assert all(influence[block] > 1e-3 for block in (0, 1, 3))


@pytest.mark.parametrize("count", [60, 130])
def test_influence_is_one_minus_the_cosine_averaged_over_all_samples(count: int) -> None:
    torch.manual_seed(0)
    model = Residual([mlp(6, 12) for _ in range(3)])
    teacher = capture_vectors(model, 6).module
    (stack,) = find_stacks(teacher).stacks
    samples = vectors(count, 6, 0)
    state, expected = samples.arrays["x"], []
    for term in model.terms:
        after = state + term(state)
        expected.append(float((1 - F.cosine_similarity(state, after, dim=-1)).mean().detach()))
        state = after
    assert block_influence(teacher, stack, samples) == pytest.approx(expected, rel=1e-9)


def test_influence_is_averaged_over_the_positions_of_a_sample() -> None:
    teacher = vision().module
    (stack,) = find_stacks(teacher).stacks
    torch.manual_seed(0)
    model = VisionParaFormer(SMALL).eval()
    with torch.no_grad():
        before = model.embed(HELD_OUT.arrays["images"])
        after = model.blocks[0](before)
        expected = float((1 - F.cosine_similarity(before.double(), after.double(), dim=-1)).mean())
    assert before.shape == (60, 4, 16)
    assert block_influence(teacher, stack, HELD_OUT)[0] == pytest.approx(expected, rel=1e-4)
