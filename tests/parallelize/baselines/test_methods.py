"""All methods at one depth: which there are, how deep they are, and that each network is what its record says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parallelize.baselines import Baseline, baselines
from parallelize.metrics import predict, score
from parallelize.refitting.refit import refit
from passes.errors import ParallelizeError
from passes.graph.agreement import largest_change
from passes.plan import Plan
from passes.schedule.apply_plan import rewrite
from passes.schedule.average_branches import averaged
from tests.parallelize.small_models import (
    PostNorm,
    TwoStacks,
    capture_vectors,
    images,
    pairs,
    stack_plan,
    vectors,
    vision,
)

FIT, HELD_OUT, JUDGE = (images(count, seed) for seed, count in enumerate((120, 60, 60)))
SCHEDULES = ["CQIL", "LP", "ShortGPT", "SLEB"]


@pytest.fixture(scope="module")
def beside_a_plan() -> tuple[Baseline, ...]:
    return baselines(vision(), pairs("full", seed=5), FIT, HELD_OUT, "kl", "affine")


@pytest.fixture(scope="module")
def at_a_depth() -> tuple[Baseline, ...]:
    return baselines(vision(), 2, FIT, HELD_OUT, "kl")


def test_beside_a_plan_all_methods_stand_as_published_and_schedules_refitted_too(
    beside_a_plan: tuple[Baseline, ...],
) -> None:
    rows = [(made.name, made.strength) for made in beside_a_plan]
    expected = [("mean of branches", "none")]
    for name in ("CQIL", "LP", "first of each group", "ShortGPT", "SLEB"):
        expected += [(name, "none"), (name, "affine")]
    assert rows == [*expected, ("TOAST", "none")]


def test_at_a_depth_there_are_no_groups_to_delete_from(at_a_depth: tuple[Baseline, ...]) -> None:
    assert [made.name for made in at_a_depth] == ["mean of branches", *SCHEDULES, "TOAST"]
    assert {made.strength for made in at_a_depth} == {"none"}


def test_every_network_is_as_deep_as_asked_for(
    beside_a_plan: tuple[Baseline, ...], at_a_depth: tuple[Baseline, ...]
) -> None:
    for made in (*beside_a_plan, *at_a_depth):
        assert (made.depth_blocks, made.depth_terms) == (2, 4)
        if made.plan is None:
            assert sum(last - first + 1 for part in made.replaced for first, last in part) == 2
        else:
            assert made.plan.stacks[0].depth == 4
            assert made.replaced == ()


@pytest.mark.slow
def test_every_schedule_makes_the_network_that_stands_beside_it(beside_a_plan: tuple[Baseline, ...]) -> None:
    teacher = vision().module
    for made in (made for made in beside_a_plan if made.plan is not None):
        assert made.plan is not None
        assert {part.refit for part in made.plan.stacks} == {made.strength}
        assert made.plan.seed == 5
        if made.name == "mean of branches":
            assert made.plan == pairs("none", seed=5)
            again = averaged(teacher, made.plan)
        elif made.strength == "none":
            again, _ = rewrite(teacher, made.plan)
        else:
            again = refit(teacher, made.plan, FIT, HELD_OUT).module
        assert largest_change(predict(again, JUDGE), predict(made.module, JUDGE)) < 1e-5


def test_methods_that_end_in_one_plan_share_its_refit(beside_a_plan: tuple[Baseline, ...]) -> None:
    refitted = [made for made in beside_a_plan if made.strength == "affine"]
    plans = {made.plan for made in refitted}
    assert len(plans) < len(refitted)
    assert len({id(made.module) for made in refitted}) == len(plans)


def test_a_refit_brings_every_schedule_nearer_to_the_teacher(beside_a_plan: tuple[Baseline, ...]) -> None:
    expected = predict(vision().module, JUDGE)
    errors = {
        (made.name, made.strength): score(predict(made.module, JUDGE), expected).relative_l2 for made in beside_a_plan
    }
    for name in ("CQIL", "LP", "first of each group", "ShortGPT", "SLEB"):
        assert errors[name, "affine"] < errors[name, "none"]


@pytest.mark.slow
def test_a_depth_that_pairs_cannot_reach_leaves_them_out() -> None:
    made = baselines(vision(), 1, FIT, HELD_OUT, "kl", "affine")
    assert "LP" not in {each.name for each in made}
    assert {"CQIL", "ShortGPT", "SLEB", "TOAST"} <= {each.name for each in made}


def test_every_method_but_our_own_is_cited(beside_a_plan: tuple[Baseline, ...]) -> None:
    for made in beside_a_plan:
        assert (made.citation is None) == (made.name == "first of each group")
        assert made.citation is None or "arXiv" in made.citation


@pytest.mark.slow
@pytest.mark.parametrize("model", [TwoStacks, pytest.param(lambda: PostNorm(5), marks=pytest.mark.slow)])
def test_models_of_several_stacks_and_of_post_norm_terms_have_all_baselines(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    program = capture_vectors(model(), 6)
    fit, held_out, judge = (vectors(count, 6, seed) for seed, count in enumerate((120, 60, 60)))
    made = baselines(program, 4, fit, held_out, "relative-l2", "affine")
    assert {each.name for each in made} == {"mean of branches", *SCHEDULES, "TOAST"}
    expected = predict(program.module, judge)
    for each in made:
        assert 0 < score(predict(each.module, judge), expected).relative_l2 < 2


@pytest.mark.slow
def test_each_method_is_announced() -> None:
    said: list[str] = []
    baselines(vision(), 3, FIT, HELD_OUT, "kl", "affine", said.append)
    assert said[:3] == ["mean of branches", "CQIL", "CQIL, refitted"]
    assert said[-1] == "TOAST"


def test_a_model_without_stacks_is_refused() -> None:
    program = capture_vectors(nn.Linear(6, 6), 6)
    with pytest.raises(ParallelizeError, match="The model has no residual stack"):
        baselines(program, 1, vectors(20, 6, 0), vectors(20, 6, 1), "relative-l2")


@pytest.mark.parametrize("target", [0, 5, stack_plan(4, [[[0]], [[1]]], "none")])
def test_a_target_that_the_model_does_not_have_is_refused(target: int | Plan) -> None:
    with pytest.raises(ParallelizeError, match=r"blocks deep: the model has 4|terms for the stack"):
        baselines(vision(), target, FIT, HELD_OUT, "kl")
