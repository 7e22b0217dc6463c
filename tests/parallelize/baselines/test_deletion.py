"""Deletion, the rival: as deep as the rewrite, and the best of three ways to pick what stays."""

from __future__ import annotations

import pytest
import torch

from parallelize.baselines.block_deletion import deletion, most_influential
from parallelize.baselines.deletion import deletion_plan
from parallelize.baselines.depths import wanted_depths
from parallelize.baselines.greedy import least_costly
from parallelize.baselines.trial import Trial
from parallelize.metrics import predict, score
from parallelize.models.program import Program
from parallelize.refitting.refit import refit
from passes.plan import Plan, Refit, grouped
from passes.schedule.apply_plan import rewrite
from passes.stacks.find import find_stacks
from tests.parallelize.small_models import (
    Bump,
    Residual,
    capture_vectors,
    first_coordinate,
    images,
    pairs,
    silent,
    stack_plan,
    vectors,
    vision,
)

FIT, HELD_OUT = images(120, 0), images(60, 1)
BLOCKS = [(0, 1), (2, 3), (4, 5), (6, 7)]


def _kept(plan: Plan) -> list[int]:
    (part,) = plan.stacks
    return [term for level in part.levels for term in level.terms]


@pytest.mark.parametrize(
    "groups",
    [
        [BLOCKS],
        [[(0, 1)], [(2, 3)], [(4, 5), (6, 7)]],
        pytest.param([[(0, 1), (2, 3)], [(4, 5), (6, 7)]], marks=pytest.mark.slow),
        pytest.param([[(0, 1)], [(2, 3), (4, 5), (6, 7)]], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", ["sublayer", "block"])
def test_what_is_left_is_as_deep_as_the_plan_and_runs_whole_blocks_serially(
    groups: list[list[tuple[int, ...]]], form: str
) -> None:
    plan = Plan((grouped(8, groups, form, "none"),), seed=7)
    chosen = deletion_plan(vision().module, plan, FIT, HELD_OUT, "kl")
    (part,) = chosen.stacks
    part.check()
    assert chosen.stacks[0].depth == plan.stacks[0].depth == 2 * len(groups)
    assert all(len(level.chains) == 1 and level.depth == 1 for level in part.levels)
    kept = _kept(chosen)
    assert kept == sorted(kept)
    assert all(set(block) <= set(kept) or not set(block) & set(kept) for block in BLOCKS)
    assert len(part.deleted) == 8 - 2 * len(groups)
    assert chosen.seed == 7


def test_a_depth_that_is_no_whole_number_of_blocks_is_rounded_up() -> None:
    plan = stack_plan(8, [[[0], [2]], [[1], [3]], [[4, 5]], [[6]], [[7]]], "none")
    assert plan.stacks[0].depth == 6
    plan = stack_plan(8, [[[0], [2], [4]], [[1], [3], [5]], [[6], [7]]], "none")
    assert plan.stacks[0].depth == 3
    assert deletion_plan(vision().module, plan, FIT, HELD_OUT, "kl").stacks[0].depth == 4


@pytest.mark.parametrize("strength", ["none", "affine", "full"])
def test_the_deletion_gets_the_same_strength_of_refit(strength: Refit) -> None:
    assert deletion_plan(vision().module, pairs(strength), FIT, HELD_OUT, "kl").stacks[0].refit == strength


def test_blocks_that_add_nothing_are_the_ones_that_go() -> None:
    teacher = silent(0, 2).module
    chosen = deletion_plan(teacher, pairs("none"), FIT, HELD_OUT, "kl")
    assert _kept(chosen) == [2, 3, 6, 7]
    module, _ = rewrite(teacher, chosen)
    assert score(predict(module, HELD_OUT), predict(teacher, HELD_OUT)).error("kl") < 1e-9


@pytest.fixture(scope="module")
def quiet_and_loud() -> Program:
    """Of four terms the second and the last move the state much, in a coordinate that the head does not read."""
    torch.manual_seed(0)
    terms = [Bump(0, 1.0), Bump(3, 20.0), Bump(0, 1.0), Bump(3, 20.0)]
    return capture_vectors(Residual(terms, first_coordinate()), 4)


def test_of_all_ways_the_one_that_measures_better_wins_even_against_influence(quiet_and_loud: Program) -> None:
    teacher, samples = quiet_and_loud.module, (vectors(100, 4, 0), vectors(50, 4, 1))
    stacks = find_stacks(teacher).stacks
    plan = stack_plan(4, [[[0], [1]], [[2], [3]]], "none")
    assert most_influential(teacher, stacks, wanted_depths(stacks, plan), samples[1]) == ((1, 3),)
    trial = Trial(teacher, samples[1], "relative-l2")
    chosen = trial.error(rewrite(teacher, deletion_plan(teacher, plan, *samples, "relative-l2"))[0])
    others = [trial.error(rewrite(teacher, deletion(stacks, kept))[0]) for kept in (((0, 2),), ((1, 3),))]
    assert chosen < 0.9 * min(others)


@pytest.mark.slow
@pytest.mark.parametrize("strength", ["affine", "full"])
def test_the_ways_are_compared_after_an_affine_refit(strength: Refit) -> None:
    teacher = vision().module
    chosen = deletion_plan(teacher, pairs(strength), FIT, HELD_OUT, "kl")
    stacks = find_stacks(teacher).stacks
    depths = wanted_depths(stacks, pairs(strength))
    ways = {
        ((0, 2),),
        most_influential(teacher, stacks, depths, HELD_OUT),
        least_costly(stacks, depths, Trial(teacher, HELD_OUT, "kl")),
    }
    errors = {}
    for kept in ways:
        candidate = deletion(stacks, kept).with_refit("affine")
        module = refit(teacher, candidate, FIT, HELD_OUT).module
        errors[tuple(_kept(candidate))] = score(predict(module, HELD_OUT), predict(teacher, HELD_OUT)).error("kl")
    assert len(errors) > 1
    assert _kept(chosen) == list(min(errors, key=lambda kept: errors[kept]))


def test_greedy_deletion_wins_where_the_other_ways_delete_what_matters() -> None:
    """The last two terms move the state most and are not read; the groups of the plan keep the last one."""
    torch.manual_seed(0)
    terms = [Bump(0, 1.0), Bump(0, 1.0), Bump(3, 20.0), Bump(3, 20.0)]
    teacher = capture_vectors(Residual(terms, first_coordinate()), 4).module
    plan = stack_plan(4, [[[0], [1], [2]], [[3]]], "none")
    assert _kept(deletion_plan(teacher, plan, vectors(100, 4, 0), vectors(50, 4, 1), "relative-l2")) == [0, 1]


def test_a_deletion_repeats_whatever_the_random_state() -> None:
    plans = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        plans.append(deletion_plan(vision().module, pairs("full"), FIT, HELD_OUT, "kl"))
    assert plans[0] == plans[1]
